# The frame of a random program, which the Go function Random puts at BODY: sets up a 500 Hz tick, runs the program with
# interrupts on, and prints a digest of its registers and its memory window. The window's first quadword counts the ticks,
# mixed with the register contents at each, so that the digest tells where every tick came.
	.include "guest.inc"
	.set	BODY, 0x180000
	.set	WINDOW, 0x200000
	.set	WINDOW_BYTES, 0x2000
	.set	PRIME, 0x100000001b3	# that of FNV-1a, 64 bits
main:
	gate	IRQ_BASE, tick
	mov	$0xfffe, %eax
	call	interrupts_on
	mov	$0x34, %al
	mov	$2386, %ecx
	call	start_pit
	mov	$WINDOW, %ebx
	mov	$BODY, %eax
	sti
	call	*%rax
	cli
	push	%rax
	push	%rcx
	push	%rdx
	push	%rbp
	push	%rsi
	push	%rdi
	push	%r8
	push	%r9
	push	%r10
	push	%r11
	push	%r12
	push	%r13
	push	%r14
	mov	$PRIME, %r9
	mov	$0xcbf29ce484222325, %r8
	mov	%rsp, %rsi
	mov	$13, %ecx
	call	digest
	mov	%rbx, %rsi
	mov	$(WINDOW_BYTES / 8), %ecx
	call	digest
	say	"\ndigest "
	mov	%r8, %rax
	mov	$16, %cl
	call	puthex
	say	"\n"
	jmp	finish

# digest mixes RCX quadwords from RSI on into R8.
digest:
	lodsq
	xor	%rax, %r8
	imul	%r9, %r8
	dec	%rcx
	jnz	digest
	ret

tick:
	push	%rax
	add	%rdx, %rax
	xor	%rsi, %rax
	rol	$7, %rax
	add	%rax, WINDOW
	incq	WINDOW
	end_of_interrupt
	pop	%rax
	iretq
