# What the rewriter has to find and what it must not be taken in by; the wanted sites are listed in sites_test.go.
	.section .text, "ax"
	.globl startup_64
startup_64:
	rdtsc
	mov	$0x310f, %eax			# bytes of rdtsc in an immediate
	mov	$0x31f9010f, %ecx
	movabs	$0x90310f90e0220f90, %rdx	# of rdtsc and of a write to cr4
	mov	0x310f(%rax), %ebx		# in a displacement
	rdtscp
	mov	%rax, %cr4
	mov	%r9, %cr4
	mov	%rdi, %cr4
	mov	%cr4, %rax			# a read
	mov	%rax, %cr3
	mov	%rax, %cr0
	mov	%rax, %cr8
	.byte	0x4c, 0x0f, 0x22, 0xe0		# REX.R: cr12, which there isn't
	.byte	0x0f, 0x22, 0x20		# mov %rax, %cr4 with mod bits that are ignored
	vmovdqa	%ymm0, 0x310f(%rax)
	vpshufd	$0x0f, %xmm1, %xmm0
	xor	%eax, (%rcx)			# 31 01, behind an immediate of 0f
	.byte	0xf3				# rdtsc with a prefix that means nothing
	rdtsc
	lfence
	rdtsc
	jmp	island_end
	.byte	0x48, 0xb8			# data that would swallow what follows as the immediate of a movabs
island_end:
	rdtsc
	.skip	8, 0xcc

	.section .init.text, "ax"
	rdtsc
	.section .altinstr_replacement, "ax"
	lfence
	rdtsc
	rdtscp
	clac
	stac
	.data
	rdtsc					# not code
	.section .rodata, "a"
	rdtscp
#ifdef ORC
	.section .orc_unwind_ip, "a"
	.long	startup_64 - .
	.long	island_end - .
#endif
