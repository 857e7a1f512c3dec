// Package rewrite replaces the instructions of a kernel image that read or could expose the time-stamp counter, and that KVM
// can't trap on a stock host, by port accesses that it always traps.
//
//	instruction                    becomes                     the VMM
//	rdtsc         0f 31            in  eax, imm8   e5 NN       answers EAX by the I/O data, RDX through the registers
//	rdtscp        0f 01 f9         in  eax, imm8   e5 NN 90    answers RCX (TSC_AUX) as well
//	mov reg, cr4  [REX] 0f 22 /4   out imm8, eax   e7 NN 90 …  ignores the I/O data and writes the register to CR4, with TSD set
//
// A port access is as long as the shortest of the three, so nothing moves; what is left over is filled with one-byte NOPs. No
// instruction here changes flags, and neither does a port access. Each source register of a CR4 write has a port of its own
// (Ports.WriteCR4 + register number). So the VMM needs no table of addresses to know the register, which matters because
// startup_64 runs its CR4 writes at physical addresses, before paging is switched to the kernel's own.
//
// Contract: Find and Apply are functions of the image alone and belong to whoever owns the Kernel; Apply writes into the
// image's Data in place, before boot.Load. Hostile images give wrong sites at worst, never a panic, and work in proportion
// to the image's size.
//
// # How real instructions are told from bytes that look like them
//
// Half of the byte matches in a distribution kernel are parts of other instructions (Debian 6.1: 263 matches, of which 107
// rdtsc, 17 rdtscp and 17 CR4 writes are real). So the code before each match is decoded, from an instruction start that is
// known. The start of a section is one. The ORC unwind table gives many more: a kernel built with CONFIG_UNWINDER_ORC has the
// addresses at which the stack layout changes in .orc_unwind_ip, and objtool took each from its own decoding. In Debian's
// that is one every 40 bytes of text, so next to nothing needs decoding: finding all sites takes a thirtieth of the time that
// sweeping all 6.8 million instructions takes (BenchmarkFind). Without that table the sections are swept from their start, as
// objdump -d does it; bytes that are no instruction are stepped over one by one until the sweep falls into step again.
//
// The image inside a bzImage has no symbols, but it has section headers, and they are needed to tell code from data: program
// headers don't, since Debian's executable segments hold .rodata and .init.data as well. All executable sections count, among
// them .altinstr_replacement: at boot the kernel copies replacements from there over its own text ("rdtsc" becomes "lfence;
// rdtsc" or "rdtscp"), so an original and its replacement have to be rewritten both. It fixes up only a replacement that
// starts with a call or a jump, and may join our NOPs with others into longer ones; port accesses go through unharmed.
//
// golang.org/x/arch/x86/x86asm is not used: it knows neither VEX and EVEX nor stac and clac, so it loses its place 91 times in
// Debian's .text and .init.text and 224 times among the 4,600 instructions of .altinstr_replacement, and a sweep by it takes
// ten times as long. A length decoder is all that is needed; decode.go agrees with objdump about the start of each of the
// 6,820,541 instructions of Debian's 6.1, but that objdump shows "fwait; fninit" as one, and of its 6.12 (114 rdtsc, 19
// rdtscp, 17 CR4 writes), but that objdump 2.40 does not know lkgs.
//
// # What is left alone
//
// The vDSO is data in the image and runs as user code: CR4.TSD catches it. The real-mode trampoline for further processors is
// data too and never runs on a uniprocessor guest. Modules are not in the image; of Debian's, one that a guest may load
// (jitterentropy_rng) holds an rdtsc.
package rewrite
