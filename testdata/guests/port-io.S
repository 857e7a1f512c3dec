# Port I/O of every width, plain and with string instructions. It uses the UART's scratch register (0x3ff), which reads back
# what was written, and a port where nothing is (0x2f0), which reads as ones.
	.include "guest.inc"
	.set	NOTHING, 0x2f0
	.set	SCRATCH, 0x3ff
main:
	mov	$SCRATCH, %dx
	mov	$0xa5, %al
	out	%al, %dx
	xor	%eax, %eax
	in	%dx, %al
	expect	%al, $0xa5, "byte written to the scratch register"

	mov	$NOTHING, %dx
	xor	%eax, %eax
	in	%dx, %al
	expect	%eax, $0xff, "byte of an empty port"
	xor	%eax, %eax
	in	%dx, %ax
	expect	%eax, $0xffff, "word of an empty port"
	xor	%eax, %eax
	in	%dx, %eax
	expect	%eax, $-1, "dword of an empty port"
	mov	$0x12345678, %eax
	out	%al, %dx
	out	%ax, %dx
	out	%eax, %dx
	in	$DEBUG_PORT, %al
	expect	%al, $0xe9, "answer of the debug port"

	# String input: four scratch bytes, then two words and two dwords of nothing, nothing beyond them.
	lea	buffer(%rip), %rdi
	mov	$SCRATCH, %dx
	mov	$4, %ecx
	rep insb
	mov	$NOTHING, %dx
	mov	$2, %ecx
	rep insw
	mov	$2, %ecx
	rep insl
	mov	buffer(%rip), %rax
	mov	$0xffffffffa5a5a5a5, %rcx
	expect	%rax, %rcx, "string input of bytes and words"
	mov	buffer + 8(%rip), %rax
	expect	%rax, $-1, "string input of dwords"
	mov	buffer + 16(%rip), %rax
	expect	%rax, $0x77, "bytes behind a string input"

	# String output: text to the debug port, words and dwords to nowhere.
	lea	text(%rip), %rsi
	mov	$DEBUG_PORT, %dx
	mov	$(text_end - text), %ecx
	rep outsb
	lea	text(%rip), %rsi
	mov	$NOTHING, %dx
	mov	$3, %ecx
	rep outsw
	mov	$3, %ecx
	rep outsl
	say	"ok\n"
	jmp	finish

	.section .rodata
text:	.ascii	"string output\n"
text_end:
	.skip	8
	.data
	.balign	8
buffer:	.quad	0, 0, 0x77
