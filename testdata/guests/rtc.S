# The RTC: prints century, date and time to the minute as the registers hold them, and register D.
	.include "guest.inc"
	.macro	show register
	mov	$\register, %al
	out	%al, $0x70
	in	$0x71, %al
	movzbl	%al, %eax
	mov	$2, %cl
	call	puthex
	.endm
main:
1:	mov	$0x0a, %al		# no update in progress
	out	%al, $0x70
	in	$0x71, %al
	test	$0x80, %al
	jnz	1b
	show	0x32
	show	0x09
	show	0x08
	show	0x07
	say	" "
	show	0x04
	show	0x02
	say	" "
	show	0x0d
	say	"\n"
	jmp	finish
