# Writes to memory for ever without an exit: to one page all the time, to 64 pages one after the other, for 256 turns each,
# and to one more every 16384 turns. Each gets the number of the turn. For the dirty log of forced stops.
	.include "guest.inc"
	.set	FIRST, 0x200000
main:
	say	"writing\n"
	xor	%eax, %eax
	mov	$FIRST, %ebx
1:	inc	%rax
	mov	%rax, (%rbx)
	mov	%eax, %ecx
	shr	$8, %ecx
	and	$63, %ecx
	shl	$12, %ecx
	mov	%rax, 0x1000(%rbx,%rcx)
	test	$0x3fff, %eax
	jnz	1b
	mov	%rax, 0x100000(%rbx)
	jmp	1b
