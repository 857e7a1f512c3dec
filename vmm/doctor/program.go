package doctor

// program is machine code for a probe's guest beside the text that it was assembled from. A program is entered with the
// operand area's address in RDI and a counter, if it has one, in RCX.
type program struct {
	source string // GNU assembler, AT&T syntax
	code   string
}

// A kernel program ends with HLT. A user program may not halt: it raises #GP there, and that is how it ends.
var (
	haltOnly   = program{source: "hlt", code: "\xf4"}
	spin       = program{source: "1: jmp 1b", code: "\xeb\xfe"}
	countDown  = program{source: "1: dec %rcx; jnz 1b; hlt", code: "\x48\xff\xc9\x75\xfb\xf4"}
	undefined  = program{source: "ud2; hlt", code: "\x0f\x0b\xf4"}
	softInt    = program{source: "int $0x80; hlt", code: "\xcd\x80\xf4"}
	askCPUID   = program{source: "mov $0x40000000, %eax; cpuid; hlt", code: "\xb8\x00\x00\x00\x40\x0f\xa2\xf4"}
	readTSC    = program{source: "rdtsc; hlt", code: "\x0f\x31\xf4"}
	threeNops  = program{source: "nop; nop; nop; hlt", code: "\x90\x90\x90\xf4"}
	portOut    = program{source: "mov $0x5a, %al; out %al, $0xf4; in $0xf4, %eax; hlt", code: "\xb0\x5a\xe6\xf4\xe5\xf4\xf4"}
	portLoop   = program{source: "1: out %al, $0xf4; dec %rcx; jnz 1b; hlt", code: "\xe6\xf4\x48\xff\xc9\x75\xf9\xf4"}
	accessMMIO = program{source: "mov $0x180000, %esi; movq $0x11223344, (%rsi); mov 8(%rsi), %eax; hlt", code: "\xbe\x00\x00\x18\x00\x48\xc7\x06\x44\x33\x22\x11\x8b\x46\x08\xf4"}
	enableHalt = program{source: "sti; hlt; hlt", code: "\xfb\xf4\xf4"}
	openWindow = program{source: "cli; out %al, $0xf4; sti; 1: inc %rcx; jmp 1b", code: "\xfa\xe6\xf4\xfb\x48\xff\xc1\xeb\xfb"}
	haltMove   = program{source: "hlt; mov %rax, %rbx; hlt", code: "\xf4\x48\x89\xc3\xf4"}
	dirtyPages = program{source: "mov %al, 0x1000(%rdi); mov %al, 0x3000(%rdi); mov %al, 0x1f000(%rdi); hlt", code: "\x88\x87\x00\x10\x00\x00\x88\x87\x00\x30\x00\x00\x88\x87\x00\xf0\x01\x00\xf4"}

	// leaveKernel goes to user code, and answers its system call by going back to it. It sets STAR, LSTAR and FMASK as a
	// kernel does (SDM vol. 3 §5.8.8).
	leaveKernel = program{
		source: "mov $0xc0000081, %ecx; xor %eax, %eax; mov $0x00100008, %edx; wrmsr;" +
			"mov $0xc0000082, %ecx; lea 1f(%rip), %rax; xor %edx, %edx; wrmsr;" +
			"mov $0xc0000084, %ecx; mov $0x700, %eax; wrmsr;" +
			"mov $2, %r11d; mov $0x20000, %ecx; sysretq;" +
			"1: swapgs; lea 1(%rbx), %rax; swapgs; sysretq",
		code: "\xb9\x81\x00\x00\xc0\x31\xc0\xba\x08\x00\x10\x00\x0f\x30\xb9\x82\x00\x00\xc0\x48\x8d\x05\x1e\x00\x00\x00\x31\xd2\x0f\x30\xb9\x84\x00\x00\xc0\xb8\x00\x07\x00\x00\x0f\x30\x41\xbb\x02\x00\x00\x00\xb9\x00\x00\x02\x00\x48\x0f\x07\x0f\x01\xf8\x48\x8d\x43\x01\x0f\x01\xf8\x48\x0f\x07",
	}
	callKernel = program{source: "mov $41, %ebx; syscall; mov %rax, %rdx; hlt", code: "\xbb\x29\x00\x00\x00\x0f\x05\x48\x89\xc2\xf4"}
)
