package doctor

import "fmt"

// ranUser says whether a user program ran to its HLT, which stands offset bytes into it: a user program may not halt.
func (e end) ranUser(offset uint64) bool {
	return e.vector == vectorGP && e.user && e.from == userAddr+offset
}

func lookUserMode(x *examination) (finding, error) {
	return x.expect(countDown, start{cpl: 3, rcx: 100}, func(e end) finding {
		if !e.ranUser(5) || e.regs.RCX != 0 {
			return lacking("%v", e)
		}
		return found("a loop ran, and its HLT raised #GP")
	})
}

func lookUserExceptions(x *examination) (finding, error) {
	return x.expect(undefined, start{cpl: 3}, func(e end) finding {
		if e.vector != vectorUD || e.from != userAddr || !e.user {
			return lacking("UD2: %v", e)
		}
		return found("UD2 raises #UD")
	})
}

func lookSoftInterrupt(x *examination) (finding, error) {
	return x.expect(softInt, start{cpl: 3}, func(e end) finding {
		if e.vector != 0x80 || !e.user {
			return lacking("INT 0x80: %v", e)
		}
		return found("INT 0x80 reaches the kernel's handler")
	})
}

// lookSyscall goes to a user program by SYSRET, takes its SYSCALL and answers it by SYSRET.
func lookSyscall(x *examination) (finding, error) {
	return x.with(func(g *guest) (finding, error) {
		e, err := g.syscall()
		if err != nil {
			return finding{}, err
		}
		if !e.answered() {
			return lacking("%s", e.unanswered()), nil
		}
		return found("a system call is made and answered"), nil
	})
}

func (g *guest) syscall() (end, error) {
	if err := g.memory.WriteAt([]byte(callKernel.code), userAddr); err != nil {
		return end{vector: -1}, err
	}
	return g.execute(leaveKernel, start{})
}

// answered tells whether callKernel came to its HLT, with the answer to its system call.
func (e end) answered() bool { return e.ranUser(uint64(len(callKernel.code)-1)) && e.regs.RDX == 42 }

// unanswered says where the way of a system call ended.
func (e end) unanswered() string {
	switch {
	case e.vector >= 0 && !e.user:
		return fmt.Sprintf("the kernel's side fails: %v", e)
	case e.vector >= 0 && e.from < userAddr:
		return fmt.Sprintf("SYSCALL enters the kernel without its privileges: %v", e)
	}
	return fmt.Sprintf("the program's side fails: %v", e)
}

func lookKernelCPUID(x *examination) (finding, error) {
	return x.expect(askCPUID, start{}, func(e end) finding {
		if !e.halted() {
			return lacking("%v", e)
		}
		return virtualised(e)
	})
}

func lookUserCPUID(x *examination) (finding, error) {
	return x.expect(askCPUID, start{cpl: 3}, func(e end) finding {
		if !e.ranUser(7) {
			return lacking("%v", e)
		}
		return virtualised(e)
	})
}

func virtualised(e end) finding {
	if uint32(e.regs.RBX) != signature {
		return lacking("the guest sees the host's: %q", text(uint32(e.regs.RBX), uint32(e.regs.RCX), uint32(e.regs.RDX)))
	}
	return found("the guest sees what it was given")
}

func lookTSD(x *examination) (finding, error) {
	return x.expect(readTSC, start{cpl: 3, cr4: cr4TSD}, func(e end) finding {
		switch {
		case e.vector == vectorGP && e.user && e.from == userAddr:
			return found("RDTSC raises #GP")
		case e.ranUser(2):
			return lacking("RDTSC reads the time stamp all the same")
		}
		return lacking("RDTSC: %v", e)
	})
}
