# Computes for ever without an exit.
	.include "guest.inc"
main:
	say	"computing\n"
	xor	%eax, %eax
1:	inc	%rax
	jmp	1b
