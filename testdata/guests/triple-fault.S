# A fault without an interrupt table to handle it, nor the double fault, nor that: the processor shuts down.
	.include "guest.inc"
main:
	say	"fault\n"
	lidt	nothing(%rip)
	ud2
	say	"survived\n"
	jmp	finish
	.section .rodata
nothing:
	.word	0
	.quad	0
