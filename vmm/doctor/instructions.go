package doctor

import "tandem/kvm"

// register is an output of the CPUID instruction.
type register uint8

const (
	eax register = iota
	ebx
	ecx
	edx
)

// cpuidBit names a feature flag of CPUID (SDM vol. 2A, CPUID; APM vol. 3 appendix E). The zero value is a feature that
// every 64-bit processor has.
type cpuidBit struct {
	leaf uint32
	reg  register
	bit  uint8
}

func (b cpuidBit) in(leaves kvm.CPUID) bool {
	if b == (cpuidBit{}) {
		return true
	}
	e := leaves.Find(b.leaf, 0)
	if e == nil {
		return false
	}
	return [...]uint32{e.EAX, e.EBX, e.ECX, e.EDX}[b.reg]>>b.bit&1 != 0
}

// instruction is one that Linux executes at CPL 0, in a program without the HLT at its end. It is tried only where CPUID
// offers it: without that Linux does not use it.
type instruction struct {
	name    string
	offered cpuidBit
	program program
}

// instructions is what a kernel executes beyond plain integer code. RDI, the operand area, is left as it is.
var instructions = []instruction{
	{"cpuid", cpuidBit{}, program{source: "xor %eax, %eax; cpuid", code: "\x31\xc0\x0f\xa2"}},
	{"rdmsr", cpuidBit{}, program{source: "mov $0xc0000102, %ecx; rdmsr", code: "\xb9\x02\x01\x00\xc0\x0f\x32"}},
	{"wrmsr", cpuidBit{}, program{source: "mov $0xc0000102, %ecx; mov $0x1000, %eax; xor %edx, %edx; wrmsr", code: "\xb9\x02\x01\x00\xc0\xb8\x00\x10\x00\x00\x31\xd2\x0f\x30"}},
	{"mov %cr4", cpuidBit{}, program{source: "mov %cr4, %rax; mov %rax, %cr4", code: "\x0f\x20\xe0\x0f\x22\xe0"}},
	{"mov %dr7", cpuidBit{}, program{source: "mov %dr7, %rax; mov %rax, %dr7", code: "\x0f\x21\xf8\x0f\x23\xf8"}},
	{"invlpg", cpuidBit{}, program{source: "invlpg (%rdi)", code: "\x0f\x01\x3f"}},
	{"invpcid", cpuidBit{7, ebx, 10}, program{source: "mov $2, %eax; movq $0, (%rdi); movq $0, 8(%rdi); invpcid (%rdi), %rax", code: "\xb8\x02\x00\x00\x00\x48\xc7\x07\x00\x00\x00\x00\x48\xc7\x47\x08\x00\x00\x00\x00\x66\x0f\x38\x82\x07"}},
	{"swapgs", cpuidBit{}, program{source: "swapgs", code: "\x0f\x01\xf8"}},
	{"wrgsbase", cpuidBit{7, ebx, 0}, program{source: "rdgsbase %rax; wrgsbase %rax", code: "\xf3\x48\x0f\xae\xc8\xf3\x48\x0f\xae\xd8"}},
	{"lgdt, lidt", cpuidBit{}, program{source: "sgdt (%rdi); lgdt (%rdi); sidt (%rdi); lidt (%rdi)", code: "\x0f\x01\x07\x0f\x01\x17\x0f\x01\x0f\x0f\x01\x1f"}},
	{"lretq", cpuidBit{}, program{source: "lea 1f(%rip), %rax; push $8; push %rax; lretq; 1:", code: "\x48\x8d\x05\x05\x00\x00\x00\x6a\x08\x50\x48\xcb"}},
	{"iretq", cpuidBit{}, program{source: "mov %rsp, %rdx; lea 1f(%rip), %rax; push $16; push %rdx; pushf; push $8; push %rax; iretq; 1:", code: "\x48\x89\xe2\x48\x8d\x05\x09\x00\x00\x00\x6a\x10\x52\x9c\x6a\x08\x50\x48\xcf"}},
	{"verw", cpuidBit{}, program{source: "movw $16, (%rdi); verw (%rdi)", code: "\x66\xc7\x07\x10\x00\x0f\x00\x2f"}},
	{"wbinvd", cpuidBit{}, program{source: "wbinvd", code: "\x0f\x09"}},
	{"clflush", cpuidBit{1, edx, 19}, program{source: "clflush (%rdi)", code: "\x0f\xae\x3f"}},
	{"clac", cpuidBit{7, ebx, 20}, program{source: "clac", code: "\x0f\x01\xca"}},
	{"stac", cpuidBit{7, ebx, 20}, program{source: "stac", code: "\x0f\x01\xcb"}},
	{"lock cmpxchg8b", cpuidBit{1, edx, 8}, program{source: "lock cmpxchg8b (%rdi)", code: "\xf0\x0f\xc7\x0f"}},
	{"lock cmpxchg16b", cpuidBit{1, ecx, 13}, program{source: "lock cmpxchg16b (%rdi)", code: "\xf0\x48\x0f\xc7\x0f"}},
	{"lock xadd", cpuidBit{}, program{source: "lock xadd %eax, (%rdi)", code: "\xf0\x0f\xc1\x07"}},
	{"lock bts", cpuidBit{}, program{source: "lock btsq $3, (%rdi)", code: "\xf0\x48\x0f\xba\x2f\x03"}},
	{"rep movsb", cpuidBit{}, program{source: "mov %rdi, %rbx; mov %rdi, %rsi; mov $16, %ecx; rep movsb; mov %rbx, %rdi", code: "\x48\x89\xfb\x48\x89\xfe\xb9\x10\x00\x00\x00\xf3\xa4\x48\x89\xdf"}},
	{"popcnt", cpuidBit{1, ecx, 23}, program{source: "popcnt %rax, %rax", code: "\xf3\x48\x0f\xb8\xc0"}},
	{"tzcnt", cpuidBit{7, ebx, 3}, program{source: "tzcnt %rax, %rax", code: "\xf3\x48\x0f\xbc\xc0"}},
	{"crc32", cpuidBit{1, ecx, 20}, program{source: "crc32b %al, %ecx", code: "\xf2\x0f\x38\xf0\xc8"}},
	{"mfence", cpuidBit{1, edx, 26}, program{source: "mfence", code: "\x0f\xae\xf0"}},
	{"lfence", cpuidBit{1, edx, 26}, program{source: "lfence", code: "\x0f\xae\xe8"}},
	{"pause", cpuidBit{}, program{source: "pause", code: "\xf3\x90"}},
	{"prefetchw", cpuidBit{0x80000001, ecx, 8}, program{source: "prefetchw (%rdi)", code: "\x0f\x0d\x0f"}},
	{"fninit", cpuidBit{1, edx, 0}, program{source: "fninit; fnstcw (%rdi)", code: "\xdb\xe3\xd9\x3f"}},
	{"fxsave", cpuidBit{1, edx, 24}, program{source: "fxsave (%rdi)", code: "\x0f\xae\x07"}},
	{"fxrstor", cpuidBit{1, edx, 24}, program{source: "fxsave (%rdi); fxrstor (%rdi)", code: "\x0f\xae\x07\x0f\xae\x0f"}},
	{"ldmxcsr", cpuidBit{1, edx, 25}, program{source: "movl $0x1f80, (%rdi); ldmxcsr (%rdi); stmxcsr (%rdi)", code: "\xc7\x07\x80\x1f\x00\x00\x0f\xae\x17\x0f\xae\x1f"}},
	{"movdqa", cpuidBit{1, edx, 26}, program{source: "movdqa (%rdi), %xmm0; movdqa %xmm0, (%rdi)", code: "\x66\x0f\x6f\x07\x66\x0f\x7f\x07"}},
	{"pxor", cpuidBit{1, edx, 26}, program{source: "pxor %xmm0, %xmm0", code: "\x66\x0f\xef\xc0"}},
	{"movq %xmm0", cpuidBit{1, edx, 26}, program{source: "movq %xmm0, %rax", code: "\x66\x48\x0f\x7e\xc0"}},
	{"xgetbv", cpuidBit{1, ecx, 26}, program{source: "xor %ecx, %ecx; xgetbv", code: "\x31\xc9\x0f\x01\xd0"}},
	{"xsetbv", cpuidBit{1, ecx, 26}, program{source: "xor %ecx, %ecx; xor %edx, %edx; mov $3, %eax; xsetbv", code: "\x31\xc9\x31\xd2\xb8\x03\x00\x00\x00\x0f\x01\xd1"}},
	{"xsave", cpuidBit{1, ecx, 26}, program{source: "xor %edx, %edx; mov $1, %eax; xsave (%rdi)", code: "\x31\xd2\xb8\x01\x00\x00\x00\x0f\xae\x27"}},
	{"xrstor", cpuidBit{1, ecx, 26}, program{source: "movq $0, 512(%rdi); movq $0, 520(%rdi); xor %edx, %edx; mov $1, %eax; xrstor (%rdi)", code: "\x48\xc7\x87\x00\x02\x00\x00\x00\x00\x00\x00\x48\xc7\x87\x08\x02\x00\x00\x00\x00\x00\x00\x31\xd2\xb8\x01\x00\x00\x00\x0f\xae\x2f"}},
}

// breakpoint is the one instruction that must raise an exception: Linux patches its own text by way of it.
var breakpoint = instruction{"int3", cpuidBit{}, program{source: "int3", code: "\xcc"}}

// hlt ends an instruction's program.
const hlt = "\xf4"

// alone is the instruction's program, ended by HLT.
func (i instruction) alone() program {
	return program{source: i.program.source + "; hlt", code: i.program.code + hlt}
}
