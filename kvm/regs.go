package kvm

// Regs is struct kvm_regs: the general registers, RIP and RFLAGS.
type Regs struct {
	RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP uint64
	R8, R9, R10, R11, R12, R13, R14, R15   uint64
	RIP, RFLAGS                            uint64
}

// Segment is struct kvm_segment.
type Segment struct {
	Base     uint64
	Limit    uint32
	Selector uint16
	Type     uint8
	Present  uint8
	DPL      uint8
	DB       uint8
	S        uint8
	L        uint8
	G        uint8
	AVL      uint8
	Unusable uint8
	_        uint8
}

// DTable is struct kvm_dtable: the GDTR or IDTR.
type DTable struct {
	Base  uint64
	Limit uint16
	_     [3]uint16
}

// Sregs is struct kvm_sregs: segments, control registers and the interrupt being injected.
type Sregs struct {
	CS, DS, ES, FS, GS, SS  Segment
	TR, LDT                 Segment
	GDT, IDT                DTable
	CR0, CR2, CR3, CR4, CR8 uint64
	EFER                    uint64
	APICBase                uint64
	InterruptBitmap         [4]uint64
}

// FPU is struct kvm_fpu: x87 and SSE state.
type FPU struct {
	FPR      [8][16]uint8
	FCW, FSW uint16
	FTWX     uint8
	_        uint8
	LastOp   uint16
	LastIP   uint64
	LastDP   uint64
	XMM      [16][16]uint8
	MXCSR    uint32
	_        uint32
}

// XSave is struct kvm_xsave: the XSAVE area in the standard format.
type XSave struct {
	Region [1024]uint32
}

// XCR is struct kvm_xcr.
type XCR struct {
	Index uint32
	_     uint32
	Value uint64
}

// XCRs is struct kvm_xcrs: the extended control registers; the first Count of Values count.
type XCRs struct {
	Count  uint32
	Flags  uint32
	Values [16]XCR
	_      [16]uint64
}

// VCPUEvents is struct kvm_vcpu_events: exceptions, interrupts and NMIs on their way, and the interrupt shadow.
type VCPUEvents struct {
	ExceptionInjected     uint8
	ExceptionNr           uint8
	ExceptionHasErrorCode uint8
	ExceptionPending      uint8
	ExceptionErrorCode    uint32

	InterruptInjected uint8
	InterruptNr       uint8
	InterruptSoft     uint8
	InterruptShadow   uint8

	NMIInjected uint8
	NMIPending  uint8
	NMIMasked   uint8
	_           uint8

	SIPIVector uint32
	Flags      uint32

	SMISMM              uint8
	SMIPending          uint8
	SMIInsideNMI        uint8
	SMILatchedINIT      uint8
	TripleFault         uint8
	_                   [26]uint8
	ExceptionHasPayload uint8
	ExceptionPayload    uint64
}

// Flags of [VCPUEvents]: which optional fields are valid.
const (
	EventsValidNMIPending  = 1 << 0
	EventsValidSIPIVector  = 1 << 1
	EventsValidShadow      = 1 << 2
	EventsValidSMM         = 1 << 3
	EventsValidPayload     = 1 << 4
	EventsValidTripleFault = 1 << 5
)

// DebugRegs is struct kvm_debugregs: the guest's own debug registers.
type DebugRegs struct {
	DB    [4]uint64
	DR6   uint64
	DR7   uint64
	Flags uint64
	_     [9]uint64
}

// MPState is struct kvm_mp_state.
type MPState struct {
	State uint32
}

// Values of [MPState].
const (
	MPRunnable = 0
	MPHalted   = 3
)

// MSR is struct kvm_msr_entry.
type MSR struct {
	Index uint32
	_     uint32
	Data  uint64
}

// maxMSRs bounds one KVM_GET_MSRS or KVM_SET_MSRS.
const maxMSRs = 256

type msrs struct {
	count   uint32
	_       uint32
	entries [maxMSRs]MSR
}

type msrList struct {
	count   uint32
	indices [maxMSRs * 4]uint32
}

// GuestDebug is struct kvm_guest_debug.
type GuestDebug struct {
	Control uint32
	_       uint32
	Debug   [8]uint64
}

// Control bits of [GuestDebug].
const (
	DebugEnable     = 1 << 0
	DebugSingleStep = 1 << 1
	DebugUseSWBP    = 1 << 16
	DebugUseHWBP    = 1 << 17
)

// Translation is struct kvm_translation.
type Translation struct {
	Linear   uint64
	Physical uint64
	Valid    uint8
	Writable uint8
	UserMode uint8
	_        [5]uint8
}

type interrupt struct {
	irq uint32
}

type userspaceMemoryRegion struct {
	slot          uint32
	flags         uint32
	guestPhysAddr uint64
	memorySize    uint64
	userspaceAddr uint64
}

// memLogDirtyPages is KVM_MEM_LOG_DIRTY_PAGES.
const memLogDirtyPages = 1

type dirtyLog struct {
	slot   uint32
	_      uint32
	bitmap uint64
}

type clearDirtyLog struct {
	slot      uint32
	numPages  uint32
	firstPage uint64
	bitmap    uint64
}

type enableCap struct {
	cap   uint32
	flags uint32
	args  [4]uint64
	_     [64]uint8
}
