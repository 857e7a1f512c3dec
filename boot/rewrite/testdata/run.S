# Executes each kind of site once, to be run after rewriting: what rdtsc and rdtscp leave in EAX goes to port 0x80, then a CR4
# value is written from R9.
	.section .text, "ax"
	.globl startup_64
startup_64:
	rdtsc
	out	%eax, $0x80
	rdtscp
	out	%eax, $0x80
	mov	%cr4, %rax
	lea	4(%rax), %r9			# TSD
	mov	%r9, %cr4
	hlt
