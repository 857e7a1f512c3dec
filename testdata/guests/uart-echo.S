# Echoes what is typed at the serial port, woken by its interrupt (IRQ 4), halted between. Says "ready" first, and ends at
# a Ctrl-D. Letters come back as capitals, so that an echo of the host's would show.
	.include "guest.inc"
	.set	COM1, 0x3f8
	.set	END, 4
main:
	gate	IRQ_BASE + 4, received
	mov	$0xffef, %eax
	call	interrupts_on
	mov	$(COM1 + 2), %dx	# FIFO on, interrupt at 1 byte
	mov	$1, %al
	out	%al, %dx
	mov	$(COM1 + 4), %dx	# OUT2 lets the interrupt through
	mov	$0x0b, %al
	out	%al, %dx
	mov	$(COM1 + 1), %dx
	mov	$1, %al
	out	%al, %dx
	say	"ready\n"
	xor	%ebx, %ebx
1:	sti				# interrupts come in HLT alone, so that none is missed before it
	hlt
	cli
	test	%ebx, %ebx
	jz	1b
	say	"end\n"
	jmp	finish
received:
	push	%rax
	push	%rdx
1:	mov	$(COM1 + 5), %dx
	in	%dx, %al
	test	$1, %al
	jz	4f
	mov	$COM1, %dx
	in	%dx, %al
	cmp	$END, %al
	jne	2f
	inc	%ebx
	jmp	1b
2:	cmp	$'a', %al
	jb	3f
	cmp	$'z', %al
	ja	3f
	and	$0xdf, %al
3:	out	%al, %dx
	jmp	1b
4:	end_of_interrupt
	pop	%rdx
	pop	%rax
	iretq
