package doctor

// probes are all there are, in the order of the report.
var probes = []probe{
	{"capabilities", "KVM's capabilities", BareMetal, "the virtual machine", lookCapabilities},
	{"memory-slots", "memory slots", BareMetal, "RAM below and above 4 GiB", lookMemorySlots},
	{"long-mode", "64-bit code at CPL 0", BareMetal, "kernels", lookLongMode},
	{"exceptions", "exceptions at CPL 0", BareMetal, "kernels", lookExceptions},
	{"port-io", "port I/O", BareMetal, "devices", lookPortIO},
	{"mmio", "MMIO", BareMetal, "devices", lookMMIO},
	{"interrupt", "interrupt injection", BareMetal, "devices, waking a halted guest", lookInterrupt},
	{"interrupt-window", "interrupt window", BareMetal, "interrupts of a guest that had them off", lookInterruptWindow},
	{"immediate-exit", "immediate_exit", BareMetal, "input that arrives while the guest is entered", lookImmediateExit},
	{"kick", "kick out of a busy guest", BareMetal, "input to a guest that computes", lookKick},
	{"sync-regs", "registers in the run area", BareMetal, "exits without further system calls", lookSyncRegs},

	{"cpu", "basic CPU features", Linux, "kernels since Linux 5", lookCPU},
	{"speed", "native speed at CPL 0", Linux, "a boot within seconds", lookSpeed},
	{"instructions", "full instruction set at CPL 0", Linux, "kernels", lookInstructions},
	{"cpuid-kernel", "CPUID of its own at CPL 0", Linux, "hiding what a guest must not use", lookKernelCPUID},
	{"user-mode", "64-bit code at CPL 3", Linux, "programs", lookUserMode},
	{"user-exceptions", "exceptions at CPL 3", Linux, "programs", lookUserExceptions},
	{"user-interrupt", "interrupts at CPL 3", Linux, "switching between programs", lookUserInterrupt},
	{"syscall", "SYSCALL and SYSRET", Linux, "every system call of a program", lookSyscall},

	{"cpuid-user", "CPUID of its own at CPL 3", Lockstep, "programs that see the same processor on both hosts", lookUserCPUID},
	{"tsd-user", "trap of RDTSC at CPL 3 (CR4.TSD)", Lockstep, "RDTSC in programs", lookTSD},
	{"breakpoint-kernel", "hardware breakpoint at CPL 0", Lockstep, "RDTSC in programs: the guest's #GP entry", lookKernelBreakpoint},
	{"dirty-log", "dirty page log", Lockstep, "sending a peer what has changed", lookDirtyLog},
	{"state", "access to all registers", Lockstep, "sending a peer the processor", lookState},

	{"soft-interrupt", "INT n at CPL 3", NoUse, "32-bit programs", lookSoftInterrupt},
	{"breakpoint-user", "hardware breakpoint at CPL 3", NoUse, "exact positions in programs, debugging", lookUserBreakpoint},
	{"single-step", "single step", NoUse, "exact positions, debugging", lookSingleStep},
	{"counter", "performance counter on the guest", NoUse, "exact positions without sending pages", lookCounter},
	{"xsave-size", "extended state", NoUse, "the size of a peer's processor state", lookXSaveSize},
	{"exit-cost", "cost of a port access", NoUse, "how long devices take", lookExitCost},
}
