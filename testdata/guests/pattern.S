# Writes a pattern into PARAM pages from 2 MiB on, every second page, one quadword a page that tells its address, and says
# so with a dot a page. For the dirty log.
	.include "guest.inc"
	.set	FIRST, 0x200000
main:
	mov	PARAM, %rcx
	mov	$FIRST, %ebx
1:	mov	%rbx, %rax
	not	%rax
	mov	%rax, 8(%rbx)
	mov	$'.', %al
	out	%al, $DEBUG_PORT
	add	$0x2000, %rbx
	dec	%rcx
	jnz	1b
	jmp	finish
