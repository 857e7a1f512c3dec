# The PM timer: never steps back, stays within 24 bits, and advances while the guest does nothing but read it.
	.include "guest.inc"
	.set	PM_TIMER, 0x608
main:
	mov	$PM_TIMER, %dx
	in	%dx, %eax
	mov	%eax, %r12d		# the first reading
	mov	%eax, %r13d		# the latest
1:	in	%dx, %eax
	mov	%eax, %ecx
	shr	$24, %ecx
	expect	%ecx, $0, "bits above the 24th"
	mov	%eax, %ecx
	sub	%r13d, %ecx
	and	$0xffffff, %ecx		# modulo 2^24: a step back would be most of the way round
	shr	$23, %ecx
	expect	%ecx, $0, "step back"
	mov	%eax, %r13d
	sub	%r12d, %eax
	and	$0xffffff, %eax
	cmp	$3580, %eax		# 1 ms
	jb	1b
	say	"ok\n"
	jmp	finish
