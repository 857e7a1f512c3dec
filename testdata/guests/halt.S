# Ends at once.
	.include "guest.inc"
main:
	jmp	finish
