package kvm

import "fmt"

// Reason says why KVM_RUN came back. Those below 0x1000 are KVM_EXIT_* of linux/kvm.h.
type Reason uint32

const (
	ReasonUnknown       Reason = 0
	ReasonException     Reason = 1
	ReasonIO            Reason = 2
	ReasonDebug         Reason = 4
	ReasonHLT           Reason = 5
	ReasonMMIO          Reason = 6
	ReasonIRQWindowOpen Reason = 7
	ReasonShutdown      Reason = 8
	ReasonFailEntry     Reason = 9
	ReasonInternalError Reason = 17
	ReasonSystemEvent   Reason = 24

	// ReasonInterrupted is KVM_RUN's EINTR: the host wanted its thread back (a kick, or any signal). The guest has
	// completed pending I/O and perhaps run on; nothing of it is the guest's doing.
	ReasonInterrupted Reason = 0x1000
)

var reasonNames = map[Reason]string{
	ReasonUnknown: "unknown", ReasonException: "exception", ReasonIO: "io", ReasonDebug: "debug", ReasonHLT: "hlt",
	ReasonMMIO: "mmio", ReasonIRQWindowOpen: "irq-window", ReasonShutdown: "shutdown", ReasonFailEntry: "fail-entry",
	ReasonInternalError: "internal-error", ReasonSystemEvent: "system-event", ReasonInterrupted: "interrupted",
}

func (r Reason) String() string {
	if name, ok := reasonNames[r]; ok {
		return name
	}
	return fmt.Sprintf("exit-%d", uint32(r))
}

// Exit is one return of KVM_RUN, decoded. Only the member that Reason names is valid.
type Exit struct {
	Reason   Reason
	IO       IOExit            // ReasonIO
	MMIO     MMIOExit          // ReasonMMIO
	Debug    DebugExit         // ReasonDebug
	Fail     FailEntryExit     // ReasonFailEntry
	Internal InternalErrorExit // ReasonInternalError
	System   SystemEventExit   // ReasonSystemEvent
}

// IOExit is a port access: Count items of Size bytes, one after the other in Data, which is the vCPU's run area: what
// is put there before the next KVM_RUN is what an IN reads.
type IOExit struct {
	Write bool
	Port  uint16
	Size  uint8 // 1, 2 or 4
	Count uint32
	Data  []byte
}

// MMIOExit is an access to an address without RAM. Data is the vCPU's run area, as in IOExit; 1 to 8 bytes.
type MMIOExit struct {
	Write   bool
	Address uint64
	Data    []byte
}

// DebugExit is a breakpoint or single step of [VCPU.SetGuestDebug].
type DebugExit struct {
	Exception uint32 // vector: 1 #DB, 3 #BP
	PC        uint64
	DR6, DR7  uint64
}

// FailEntryExit says that the processor refused the guest's state.
type FailEntryExit struct {
	HardwareReason uint64
	CPU            uint32
}

// InternalErrorExit says that KVM gave up: Suberror 1 is an instruction that its interpreter does not know.
type InternalErrorExit struct {
	Suberror uint32
	Data     []uint64
}

// SuberrorEmulation is KVM_INTERNAL_ERROR_EMULATION.
const SuberrorEmulation = 1

// Instruction returns the bytes of the instruction that KVM could not emulate, if it told them.
func (e *InternalErrorExit) Instruction() []byte {
	// Data[0] bit 0 says that Data[1] low byte is a length, followed by the bytes (kvm_run.emulation_failure).
	if e.Suberror != SuberrorEmulation || len(e.Data) < 4 || e.Data[0]&1 == 0 {
		return nil
	}
	n := min(int(e.Data[1]&0xff), 15)
	raw := make([]byte, 0, 24)
	for _, w := range e.Data[1:4] {
		for shift := 0; shift < 64; shift += 8 {
			raw = append(raw, byte(w>>shift))
		}
	}
	return raw[1 : 1+n]
}

// SystemEventExit is a request of the guest to the hypervisor, by ways that this machine does not offer.
type SystemEventExit struct {
	Type uint32
}
