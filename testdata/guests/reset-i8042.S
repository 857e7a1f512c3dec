# A reset through the keyboard controller, as Linux does with reboot=k.
	.include "guest.inc"
main:
	say	"reset\n"
1:	in	$0x64, %al		# wait until the controller takes a command
	test	$2, %al
	jnz	1b
	mov	$0xfe, %al
	out	%al, $0x64
	say	"survived\n"
	jmp	finish
