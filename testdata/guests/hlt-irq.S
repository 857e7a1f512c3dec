# HLT with interrupts on, woken by one shot of the PIT on IRQ 0.
	.include "guest.inc"
main:
	gate	IRQ_BASE, tick
	mov	$0xfffe, %eax
	call	interrupts_on
	mov	$0x30, %al		# counter 0, both bytes, mode 0: one interrupt at the count's end
	mov	$1193, %ecx		# 1 ms
	call	start_pit
	say	"wait\n"
	xor	%ebx, %ebx
	sti
1:	hlt
	test	%ebx, %ebx
	jz	1b
	cli
	expect	%ebx, $1, "number of interrupts"
	say	"woken\n"
	jmp	finish
tick:
	push	%rax
	inc	%ebx
	end_of_interrupt
	pop	%rax
	iretq
