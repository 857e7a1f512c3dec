# The RTC's periodic interrupt at 1024 Hz, IRQ 8, through the slave PIC: counts 8 of them.
	.include "guest.inc"
main:
	gate	IRQ_BASE + 8, tick
	mov	$0xfefb, %eax		# IRQ 8, and the cascade
	call	interrupts_on
	mov	$0x0b, %al
	out	%al, $0x70
	in	$0x71, %al
	or	$0x40, %al		# periodic interrupt
	mov	%al, %ah
	mov	$0x0b, %al
	out	%al, $0x70
	mov	%ah, %al
	out	%al, $0x71
	xor	%ebx, %ebx
	sti
1:	hlt
	cmp	$8, %ebx
	jb	1b
	cli
	say	"ok\n"
	jmp	finish
tick:
	push	%rax
	mov	$0x0c, %al		# reading register C lets the next one come
	out	%al, $0x70
	in	$0x71, %al
	and	$0xc0, %al
	cmp	$0xc0, %al
	jne	2f
	inc	%ebx
2:	mov	$0x20, %al
	out	%al, $PIC_SLAVE
	out	%al, $PIC_MASTER
	pop	%rax
	iretq
