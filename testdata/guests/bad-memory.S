# Accesses to addresses where there is neither RAM nor a device: reads give ones, writes are dropped, nothing else happens.
	.include "guest.inc"
	.set	BEYOND, 0x80000000	# 2 GiB: more RAM than the tests give
main:
	mov	$BEYOND, %ebx
	xor	%eax, %eax
	mov	(%rbx), %al
	expect	%rax, $0xff, "byte"
	xor	%eax, %eax
	mov	(%rbx), %ax
	expect	%rax, $0xffff, "word"
	mov	(%rbx), %eax
	expect	%eax, $-1, "dword"
	mov	(%rbx), %rax
	expect	%rax, $-1, "quadword"
	movq	$0, (%rbx)
	movb	$0, 3(%rbx)
	mov	(%rbx), %rax
	expect	%rax, $-1, "quadword after a write"
	say	"ok\n"
	jmp	finish
