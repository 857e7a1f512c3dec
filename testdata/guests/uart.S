# The serial port: output by polling, the scratch register, and loopback, in which what is sent is received. Reports
# through the debug port; "hello" goes out through the serial port.
	.include "guest.inc"
	.set	COM1, 0x3f8
main:
	mov	$(COM1 + 7), %dx
	mov	$0x5a, %al
	out	%al, %dx
	xor	%eax, %eax
	in	%dx, %al
	expect	%al, $0x5a, "scratch register"

	mov	$(COM1 + 3), %dx	# divisor latch, 115200 baud, then 8N1
	mov	$0x80, %al
	out	%al, %dx
	mov	$COM1, %dx
	mov	$1, %al
	out	%al, %dx
	in	%dx, %al
	expect	%al, $1, "divisor latch"
	mov	$(COM1 + 3), %dx
	mov	$3, %al
	out	%al, %dx

	lea	hello(%rip), %rsi
1:	lodsb
	test	%al, %al
	jz	2f
	call	send
	jmp	1b
2:
	mov	$(COM1 + 4), %dx	# loopback
	mov	$0x10, %al
	out	%al, %dx
	mov	$(COM1 + 5), %dx
	in	%dx, %al
	and	$1, %al
	expect	%al, $0, "data before anything was sent in loopback"
	mov	$'L', %al
	call	send
	mov	$(COM1 + 5), %dx
	in	%dx, %al
	and	$1, %al
	expect	%al, $1, "data ready in loopback"
	mov	$COM1, %dx
	in	%dx, %al
	expect	%al, $'L', "byte received in loopback"
	mov	$(COM1 + 5), %dx
	in	%dx, %al
	and	$1, %al
	expect	%al, $0, "data after it was read"
	mov	$(COM1 + 4), %dx
	xor	%eax, %eax
	out	%al, %dx
	mov	$'!', %al
	call	send
	say	"ok\n"
	jmp	finish

# send waits until the transmitter is empty and sends AL.
send:
	mov	%al, %ah
	mov	$(COM1 + 5), %dx
1:	in	%dx, %al
	test	$0x20, %al
	jz	1b
	mov	%ah, %al
	mov	$COM1, %dx
	out	%al, %dx
	ret

	.section .rodata
hello:	.asciz	"hello"
