# Idle as a kernel is that ticks: halts for ever, woken by the PIT's periodic interrupt at 100 Hz.
	.include "guest.inc"
main:
	gate	IRQ_BASE, tick
	mov	$0xfffe, %eax
	call	interrupts_on
	mov	$0x34, %al
	mov	$11932, %ecx
	call	start_pit
	say	"idle\n"
1:	sti
	hlt
	jmp	1b
tick:
	push	%rax
	end_of_interrupt
	andl	$~0x200, 24(%rsp)	# interrupts stay off until the next halt
	pop	%rax
	iretq
