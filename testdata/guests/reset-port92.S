# A reset through bit 0 of system control port A.
	.include "guest.inc"
main:
	say	"reset\n"
	in	$0x92, %al
	or	$1, %al
	out	%al, $0x92
	say	"survived\n"
	jmp	finish
