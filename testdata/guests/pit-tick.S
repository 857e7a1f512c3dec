# The PIT's periodic tick at 1 kHz: counts PARAM ticks, halting between them, and says how many PM timer counts they took.
# Interrupts are on in HLT alone, so that a tick that is late is taken there too, whatever host it is: one that interprets
# guest code looks for the interrupt window now and then only.
	.include "guest.inc"
	.set	PM_TIMER, 0x608
main:
	gate	IRQ_BASE, tick
	mov	$0xfffe, %eax
	call	interrupts_on
	xor	%ebx, %ebx
	mov	PARAM, %r12
	mov	$PM_TIMER, %dx
	in	%dx, %eax
	mov	%eax, %r13d
	mov	$0x34, %al		# counter 0, both bytes, mode 2: periodic
	mov	$1193, %ecx
	call	start_pit
1:	sti
	hlt
	cmp	%r12, %rbx
	jb	1b
	cli
	mov	$PM_TIMER, %dx
	in	%dx, %eax
	sub	%r13d, %eax
	and	$0xffffff, %eax
	push	%rax
	say	"ticks "
	mov	%rbx, %rax
	mov	$4, %cl
	call	puthex
	say	" pm "
	pop	%rax
	mov	$6, %cl
	call	puthex
	say	"\n"
	jmp	finish
tick:
	push	%rax
	inc	%rbx
	end_of_interrupt
	andl	$~0x200, 24(%rsp)	# interrupts stay off until the next halt
	pop	%rax
	iretq
