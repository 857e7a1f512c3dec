# A kernel-shaped ELF file for the loader's tests: linked high, loaded low, entered at its physical address, with a zero-based
# per-CPU segment and .bss, as vmlinux is. It writes "ok" and the first byte of its command line to port 0xe9, reloads its
# segments, and halts. The calls give the x86 BCJ filter of xz
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
	mov	0x228(%rsi), %ecx		# boot_params.hdr.cmd_line_ptr
	mov	$0x18, %eax			# __BOOT_DS must be in the GDT
	mov	%eax, %ss
	mov	(%rcx), %al
	out	%al, $0xe9
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
