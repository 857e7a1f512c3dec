# Writes a journal of what is typed to a virtio disk on memory-mapped registers (slot 0, IRQ 5). For letter number n, from 1,
# seven writes and a flush are under way at the same time: twice sector 0, first with the complement of n and then with n, and
# the sectors 8n to 8n+4. A sector is filled with quadwords of n << 8 | letter. When all are done the letter comes back at the
# serial port, as a capital. Says "ready" first, and ends at a Ctrl-D. Halts in between, and has interrupts on in HLT alone.
	.include "guest.inc"
	.set	COM1, 0x3f8
	.set	END, 4
	.set	DISK, 0xd0000000
	.set	DISK_IRQ, 5
	.set	QUEUE, 32		# entries
	.set	WRITES, 7
	.set	REQUESTS, WRITES + 1
	.set	SECTOR, 512
	.set	TYPED, 4096		# bytes that may wait
main:
	mov	$DISK, %ebx
	mov	(%rbx), %eax
	cmp	$0x74726976, %eax	# "virt"
	je	1f
	say	"no disk\n"
	jmp	finish
1:	gate	IRQ_BASE + 4, received
	gate	IRQ_BASE + DISK_IRQ, completed
	mov	$0xffcf, %eax		# IRQ 4 and 5
	call	interrupts_on
	call	start_disk
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

# R12 is the number of letters, R13 that of requests, R14 how many typed bytes were taken, R15 the letter that is written or 0.
	xor	%r12, %r12
	xor	%r13, %r13
	xor	%r14, %r14
	xor	%r15, %r15
loop:	test	%r15, %r15
	jz	idle
	movzwl	used+2(%rip), %eax
	cmp	%r13w, %ax
	jne	wait
	call	check
	mov	%r15, %rax
	and	$0xdf, %al
	mov	$COM1, %dx
	out	%al, %dx
	xor	%r15, %r15
idle:	cmp	%r14, typed(%rip)
	je	wait
	mov	%r14d, %eax
	and	$(TYPED - 1), %eax
	lea	ring(%rip), %rdi
	movzbl	(%rdi,%rax), %r15d
	inc	%r14
	cmp	$END, %r15
	je	end
	call	write
	jmp	loop
wait:	sti				# interrupts come in HLT alone, so that none is missed before it
	hlt				# an interrupt's handler turns them off
	jmp	loop
end:	say	"end\n"
	jmp	finish

# start_disk makes the device ready, and all descriptors.
start_disk:
	movl	$3, 0x70(%rbx)		# ACKNOWLEDGE, DRIVER
	movl	$1, 0x24(%rbx)		# VIRTIO_F_VERSION_1
	movl	$1, 0x20(%rbx)
	movl	$0, 0x24(%rbx)		# VIRTIO_BLK_F_FLUSH
	movl	$0x200, 0x20(%rbx)
	movl	$11, 0x70(%rbx)		# FEATURES_OK
	movl	$0, 0x30(%rbx)
	movl	$QUEUE, 0x38(%rbx)
	lea	descriptors(%rip), %rax
	mov	%eax, 0x80(%rbx)
	lea	available(%rip), %rax
	mov	%eax, 0x90(%rbx)
	lea	used(%rip), %rax
	mov	%eax, 0xa0(%rbx)
	movl	$1, 0x44(%rbx)
	movl	$15, 0x70(%rbx)		# DRIVER_OK
	xor	%ecx, %ecx
	lea	descriptors(%rip), %rdi
	lea	headers(%rip), %rsi
	lea	data(%rip), %r8
	lea	status(%rip), %r9
1:	mov	%ecx, %eax		# request RCX has the descriptors from 3 RCX on
	lea	(%rax,%rax,2), %eax
	mov	%rsi, (%rdi)
	movl	$16, 8(%rdi)
	movw	$1, 12(%rdi)		# NEXT
	lea	1(%rax), %edx
	mov	%dx, 14(%rdi)
	movl	$1, (%rsi)		# VIRTIO_BLK_T_OUT
	mov	%r8, 16(%rdi)
	movl	$SECTOR, 24(%rdi)
	movw	$1, 28(%rdi)
	lea	2(%rax), %edx
	mov	%dx, 30(%rdi)
	cmp	$WRITES, %ecx
	jne	2f
	movl	$4, (%rsi)		# VIRTIO_BLK_T_FLUSH, which has no data
	mov	%dx, 14(%rdi)
2:	mov	%r9, 32(%rdi)
	movl	$1, 40(%rdi)
	movw	$2, 44(%rdi)		# WRITE
	add	$48, %rdi
	add	$16, %rsi
	add	$SECTOR, %r8
	inc	%r9
	inc	%ecx
	cmp	$REQUESTS, %ecx
	jne	1b
	ret

# write begins to write letter R15.
write:
	inc	%r12
	mov	%r12, %rax
	shl	$8, %rax
	or	%r15, %rax		# what sectors are filled with
	lea	headers(%rip), %rsi
	lea	data(%rip), %rdi
	mov	%rax, %rdx
	not	%rdx
	movq	$0, 8(%rsi)
	call	fill
	mov	%rax, %rdx
	movq	$0, 24(%rsi)
	call	fill
	lea	(,%r12,8), %r8
	mov	$2, %ecx
1:	mov	%ecx, %r9d
	shl	$4, %r9d
	mov	%r8, 8(%rsi,%r9)
	call	fill
	inc	%r8
	inc	%ecx
	cmp	$WRITES, %ecx
	jne	1b
	lea	status(%rip), %rsi
	movq	$-1, (%rsi)
	xor	%ecx, %ecx
	lea	available(%rip), %rsi
1:	mov	%r13d, %eax
	and	$(QUEUE - 1), %eax
	lea	(%rcx,%rcx,2), %edx
	mov	%dx, 4(%rsi,%rax,2)
	inc	%r13
	inc	%ecx
	cmp	$REQUESTS, %ecx
	jne	1b
	mov	%r13w, 2(%rsi)
	movl	$0, 0x50(%rbx)
	ret

# fill fills the sector at RDI with RDX, and goes on behind it. R10 is lost.
fill:
	mov	$(SECTOR / 8), %r10d
1:	mov	%rdx, (%rdi)
	add	$8, %rdi
	dec	%r10d
	jnz	1b
	ret

# check ends the guest with a complaint unless all requests ended well.
check:
	mov	status(%rip), %rax
	test	%rax, %rax
	jz	1f
	say	"bad: status\n"
	jmp	finish
1:	ret

completed:
	andq	$~0x200, 16(%rsp)	# back to with interrupts off
	push	%rax
	mov	0x60(%rbx), %eax	# the guest keeps RBX
	mov	%eax, 0x64(%rbx)
	end_of_interrupt
	pop	%rax
	iretq

received:
	andq	$~0x200, 16(%rsp)
	push	%rax
	push	%rdx
	push	%rcx
	push	%rdi
1:	mov	$(COM1 + 5), %dx
	in	%dx, %al
	test	$1, %al
	jz	2f
	mov	$COM1, %dx
	in	%dx, %al
	mov	typed(%rip), %ecx
	and	$(TYPED - 1), %ecx
	lea	ring(%rip), %rdi
	mov	%al, (%rdi,%rcx)
	incq	typed(%rip)
	jmp	1b
2:	end_of_interrupt
	pop	%rdi
	pop	%rcx
	pop	%rdx
	pop	%rax
	iretq

	.bss
	.balign	4096
descriptors:	.skip	QUEUE * 16
	.balign	4096
available:	.skip	4096
used:	.skip	4096
data:	.skip	REQUESTS * SECTOR
headers:	.skip	REQUESTS * 16
	.balign	8
status:	.skip	8		# a byte for each of the requests
typed:	.skip	8		# how many bytes were typed
ring:	.skip	TYPED		# the last of them
