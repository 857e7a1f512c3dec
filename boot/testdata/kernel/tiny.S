# A kernel-shaped ELF file for the loader's tests: linked high, loaded low, entered at its physical address, with a zero-based
# per-CPU segment and .bss, as vmlinux is. It writes "ok" to port 0xe9 and halts. The calls give the x86 BCJ filter of xz
# something to change.
	.section .text, "ax"
	.code64
	.globl startup_64
startup_64:
	call	one
	call	two
	.rept	64
	call	three
	.endr
	cli
	hlt
one:	mov	$'o', %al
	out	%al, $0xe9
	ret
two:	mov	$'k', %al
	out	%al, $0xe9
	ret
three:	ret

	.section .rodata, "a"
	.ascii	"tiny kernel"
	.data
	.quad	startup_64
	.section .data..percpu, "aw"
	.quad	0x1122334455667788
	.bss
	.skip	0x5000
