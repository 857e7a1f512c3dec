# An interrupt that comes while the processor has them off is kept in the PIC, and is taken when they are on again.
	.include "guest.inc"
main:
	gate	IRQ_BASE, tick
	mov	$0xfffe, %eax
	call	interrupts_on
	xor	%ebx, %ebx
	mov	$0x30, %al
	mov	$100, %ecx
	call	start_pit
	mov	$0x0a, %al		# OCW3: reads of the master give the request register
	out	%al, $PIC_MASTER
1:	in	$PIC_MASTER, %al
	test	$1, %al
	jz	1b
	expect	%ebx, $0, "interrupt taken while off"
	say	"pending\n"
	expect	%ebx, $0, "interrupt taken while off"
	sti
2:	test	%ebx, %ebx		# how soon it is taken is the host's affair
	jz	2b
	cli
	in	$PIC_MASTER, %al
	and	$1, %al
	expect	%al, $0, "request after it was taken"
	expect	%ebx, $1, "number of interrupts"
	say	"taken\n"
	jmp	finish
tick:
	push	%rax
	inc	%ebx
	end_of_interrupt
	pop	%rax
	iretq
