package kvm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"sort"
	"strconv"
	"strings"
	"testing"
)

// abiStruct pairs a Go structure with the kernel's, and Go fields with the kernel's.
type abiStruct struct {
	c      string
	go_    any
	fields map[string]string
}

var abiStructs = []abiStruct{
	{"struct kvm_regs", Regs{}, map[string]string{"RAX": "rax", "RDX": "rdx", "RSP": "rsp", "RBP": "rbp", "R8": "r8", "R15": "r15", "RIP": "rip", "RFLAGS": "rflags"}},
	{"struct kvm_segment", Segment{}, map[string]string{"Limit": "limit", "Selector": "selector", "Type": "type", "Present": "present", "DPL": "dpl", "DB": "db", "S": "s", "L": "l", "G": "g", "AVL": "avl", "Unusable": "unusable"}},
	{"struct kvm_dtable", DTable{}, map[string]string{"Limit": "limit"}},
	{"struct kvm_sregs", Sregs{}, map[string]string{"CS": "cs", "DS": "ds", "ES": "es", "FS": "fs", "GS": "gs", "SS": "ss", "TR": "tr", "LDT": "ldt", "GDT": "gdt", "IDT": "idt", "CR0": "cr0", "CR2": "cr2", "CR3": "cr3", "CR4": "cr4", "CR8": "cr8", "EFER": "efer", "APICBase": "apic_base", "InterruptBitmap": "interrupt_bitmap"}},
	{"struct kvm_fpu", FPU{}, map[string]string{"FCW": "fcw", "FSW": "fsw", "FTWX": "ftwx", "LastOp": "last_opcode", "LastIP": "last_ip", "XMM": "xmm", "MXCSR": "mxcsr"}},
	{"struct kvm_xsave", XSave{}, nil},
	{"struct kvm_xcr", XCR{}, map[string]string{"Value": "value"}},
	{"struct kvm_xcrs", XCRs{}, map[string]string{"Flags": "flags", "Values": "xcrs"}},
	{"struct kvm_vcpu_events", VCPUEvents{}, map[string]string{"ExceptionPending": "exception.pending", "ExceptionErrorCode": "exception.error_code", "InterruptShadow": "interrupt.shadow", "NMIMasked": "nmi.masked", "SIPIVector": "sipi_vector", "Flags": "flags", "SMISMM": "smi.smm", "TripleFault": "triple_fault.pending", "ExceptionHasPayload": "exception_has_payload", "ExceptionPayload": "exception_payload"}},
	{"struct kvm_debugregs", DebugRegs{}, map[string]string{"DR6": "dr6", "DR7": "dr7", "Flags": "flags"}},
	{"struct kvm_mp_state", MPState{}, nil},
	{"struct kvm_msr_entry", MSR{}, map[string]string{"Data": "data"}},
	{"struct kvm_guest_debug", GuestDebug{}, map[string]string{"Debug": "arch.debugreg"}},
	{"struct kvm_translation", Translation{}, map[string]string{"Physical": "physical_address", "Valid": "valid", "Writable": "writeable", "UserMode": "usermode"}},
	{"struct kvm_interrupt", interrupt{}, nil},
	{"struct kvm_userspace_memory_region", userspaceMemoryRegion{}, map[string]string{"flags": "flags", "guestPhysAddr": "guest_phys_addr", "memorySize": "memory_size", "userspaceAddr": "userspace_addr"}},
	{"struct kvm_dirty_log", dirtyLog{}, map[string]string{"bitmap": "dirty_bitmap"}},
	{"struct kvm_clear_dirty_log", clearDirtyLog{}, map[string]string{"numPages": "num_pages", "firstPage": "first_page", "bitmap": "dirty_bitmap"}},
	{"struct kvm_enable_cap", enableCap{}, map[string]string{"args": "args"}},
	{"struct kvm_cpuid_entry2", CPUIDEntry{}, map[string]string{"Index": "index", "Flags": "flags", "EAX": "eax", "EDX": "edx"}},
	{"struct kvm_run", runPage{}, map[string]string{"requestInterruptWindow": "request_interrupt_window", "immediateExit": "immediate_exit", "exitReason": "exit_reason", "readyForInterruptInjection": "ready_for_interrupt_injection", "ifFlag": "if_flag", "flags": "flags", "cr8": "cr8", "apicBase": "apic_base", "exit": "io", "validRegs": "kvm_valid_regs", "dirtyRegs": "kvm_dirty_regs", "sync": "s"}},
	{"struct kvm_sync_regs", struct {
		Regs   Regs
		Sregs  Sregs
		Events VCPUEvents
	}{}, map[string]string{"Sregs": "sregs", "Events": "events"}},
}

// abiValues pairs our constants with the header's expressions.
var abiValues = map[string]int{
	"KVM_GET_API_VERSION": ioGetAPIVersion, "KVM_CREATE_VM": ioCreateVM, "KVM_GET_MSR_INDEX_LIST": ioGetMSRIndexList,
	"KVM_CHECK_EXTENSION": ioCheckExtension, "KVM_GET_VCPU_MMAP_SIZE": ioGetVCPUMmapSize,
	"KVM_GET_SUPPORTED_CPUID": ioGetSupportedCPUID, "KVM_CREATE_VCPU": ioCreateVCPU, "KVM_GET_DIRTY_LOG": ioGetDirtyLog,
	"KVM_SET_USER_MEMORY_REGION": ioSetUserMemoryRegion, "KVM_SET_TSS_ADDR": ioSetTSSAddr,
	"KVM_SET_IDENTITY_MAP_ADDR": ioSetIdentityMapAddr, "KVM_RUN": ioRun, "KVM_GET_REGS": ioGetRegs, "KVM_SET_REGS": ioSetRegs,
	"KVM_GET_SREGS": ioGetSregs, "KVM_SET_SREGS": ioSetSregs, "KVM_TRANSLATE": ioTranslate, "KVM_INTERRUPT": ioInterrupt,
	"KVM_GET_MSRS": ioGetMSRs, "KVM_SET_MSRS": ioSetMSRs, "KVM_GET_FPU": ioGetFPU, "KVM_SET_FPU": ioSetFPU,
	"KVM_SET_CPUID2": ioSetCPUID2, "KVM_GET_CPUID2": ioGetCPUID2, "KVM_GET_MP_STATE": ioGetMPState,
	"KVM_SET_MP_STATE": ioSetMPState, "KVM_SET_GUEST_DEBUG": ioSetGuestDebug,
	"KVM_GET_VCPU_EVENTS": ioGetVCPUEvents, "KVM_SET_VCPU_EVENTS": ioSetVCPUEvents, "KVM_GET_DEBUGREGS": ioGetDebugRegs,
	"KVM_SET_DEBUGREGS": ioSetDebugRegs, "KVM_ENABLE_CAP": ioEnableCap, "KVM_GET_XSAVE": ioGetXSave, "KVM_SET_XSAVE": ioSetXSave,
	"KVM_GET_XCRS": ioGetXCRs, "KVM_SET_XCRS": ioSetXCRs, "KVM_CLEAR_DIRTY_LOG": ioClearDirtyLog,
	"KVM_CAP_USER_MEMORY": CapUserMemory, "KVM_CAP_SET_TSS_ADDR": CapSetTSSAddr, "KVM_CAP_EXT_CPUID": CapExtCPUID,
	"KVM_CAP_NR_MEMSLOTS": CapNrMemslots, "KVM_CAP_MP_STATE": CapMPState, "KVM_CAP_SYNC_MMU": CapSyncMMU,
	"KVM_CAP_DESTROY_MEMORY_REGION_WORKS": CapDestroyMemoryRegion, "KVM_CAP_SET_GUEST_DEBUG": CapSetGuestDebug,
	"KVM_CAP_VCPU_EVENTS": CapVCPUEvents, "KVM_CAP_DEBUGREGS": CapDebugRegs, "KVM_CAP_XSAVE": CapXSave, "KVM_CAP_XCRS": CapXCRs,
	"KVM_CAP_TSC_CONTROL": CapTSCControl, "KVM_CAP_MAX_VCPUS": CapMaxVCPUs, "KVM_CAP_READONLY_MEM": CapReadonlyMem,
	"KVM_CAP_SYNC_REGS": CapSyncRegs, "KVM_CAP_IMMEDIATE_EXIT": CapImmediateExit,
	"KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2": CapManualDirtyLogProtect, "KVM_CAP_DIRTY_LOG_RING": CapDirtyLogRing,
	"KVM_EXIT_UNKNOWN": int(ReasonUnknown), "KVM_EXIT_EXCEPTION": int(ReasonException), "KVM_EXIT_IO": int(ReasonIO),
	"KVM_EXIT_DEBUG": int(ReasonDebug), "KVM_EXIT_HLT": int(ReasonHLT), "KVM_EXIT_MMIO": int(ReasonMMIO),
	"KVM_EXIT_IRQ_WINDOW_OPEN": int(ReasonIRQWindowOpen), "KVM_EXIT_SHUTDOWN": int(ReasonShutdown),
	"KVM_EXIT_FAIL_ENTRY": int(ReasonFailEntry), "KVM_EXIT_INTERNAL_ERROR": int(ReasonInternalError),
	"KVM_EXIT_SYSTEM_EVENT": int(ReasonSystemEvent), "KVM_INTERNAL_ERROR_EMULATION": SuberrorEmulation,
	"KVM_GUESTDBG_ENABLE": DebugEnable, "KVM_GUESTDBG_SINGLESTEP": DebugSingleStep, "KVM_GUESTDBG_USE_SW_BP": DebugUseSWBP,
	"KVM_GUESTDBG_USE_HW_BP": DebugUseHWBP, "KVM_MP_STATE_RUNNABLE": MPRunnable, "KVM_MP_STATE_HALTED": MPHalted,
	"KVM_SYNC_X86_REGS": SyncRegs, "KVM_SYNC_X86_SREGS": SyncSregs, "KVM_SYNC_X86_EVENTS": SyncEvents,
	"KVM_MEM_LOG_DIRTY_PAGES": memLogDirtyPages, "KVM_CPUID_FLAG_SIGNIFCANT_INDEX": CPUIDSignificantIndex,
	"KVM_VCPUEVENT_VALID_NMI_PENDING": EventsValidNMIPending, "KVM_VCPUEVENT_VALID_SIPI_VECTOR": EventsValidSIPIVector,
	"KVM_VCPUEVENT_VALID_SHADOW": EventsValidShadow, "KVM_VCPUEVENT_VALID_SMM": EventsValidSMM,
	"KVM_VCPUEVENT_VALID_PAYLOAD": EventsValidPayload, "KVM_VCPUEVENT_VALID_TRIPLE_FAULT": EventsValidTripleFault,
}

// ourABI is what this package believes, by C expression.
func ourABI(t *testing.T) map[string]int {
	ours := map[string]int{}
	for _, s := range abiStructs {
		typ := reflect.TypeOf(s.go_)
		if typ.NumField() > 0 && s.c != "struct kvm_sync_regs" {
			ours[fmt.Sprintf("sizeof(%s)", s.c)] = int(typ.Size())
		}
		for goName, cName := range s.fields {
			f, ok := typ.FieldByName(goName)
			if !ok {
				t.Fatalf("%s has no field %s", typ, goName)
			}
			ours[fmt.Sprintf("offsetof(%s, %s)", s.c, cName)] = int(f.Offset)
		}
	}
	for expr, v := range abiValues {
		ours[expr] = v
	}
	return ours
}

// headerABI compiles a program against the system's linux/kvm.h and returns what it prints.
func headerABI(t *testing.T, exprs []string) map[string]int {
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("no C compiler: the system's KVM header can't be asked (install gcc and linux-libc-dev)")
	}
	var src strings.Builder
	src.WriteString("#include <stdio.h>\n#include <stddef.h>\n#include <linux/kvm.h>\nint main(void) {\n")
	for _, e := range exprs {
		line := fmt.Sprintf("\tprintf(\"%%s=%%ld\\n\", \"%[1]s\", (long)(%[1]s));\n", e)
		if !strings.Contains(e, "(") { // a macro, which an old header may lack
			line = fmt.Sprintf("#ifdef %s\n%s#endif\n", e, line)
		}
		src.WriteString(line)
	}
	src.WriteString("}\n")
	dir := t.TempDir()
	file, bin := filepath.Join(dir, "abi.c"), filepath.Join(dir, "abi")
	if err := os.WriteFile(file, []byte(src.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(cc, "-o", bin, file).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command(bin).Output()
	if err != nil {
		t.Fatal(err)
	}
	theirs := map[string]int{}
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		expr, value, _ := strings.Cut(line, "=")
		v, err := strconv.Atoi(value)
		if err != nil {
			t.Fatal(err)
		}
		theirs[expr] = v
	}
	return theirs
}

func TestABIMatchesSystemHeader(t *testing.T) {
	ours := ourABI(t)
	exprs := make([]string, 0, len(ours))
	for e := range ours {
		exprs = append(exprs, e)
	}
	sort.Strings(exprs)
	theirs := headerABI(t, exprs)
	for _, e := range exprs {
		v, known := theirs[e]
		if !known {
			t.Errorf("%s is not in the system's header", e)
			continue
		}
		// An _IOR number does not fit a C long's positive half on 32 bits; here long has 64.
		if uint32(v) != uint32(ours[e]) {
			t.Errorf("%s: header %#x, ours %#x", e, uint32(v), uint32(ours[e]))
		}
	}
	if reflect.TypeOf(runPage{}).Size() != runPageBytes {
		t.Errorf("runPageBytes is %d, the structure has %d", runPageBytes, reflect.TypeOf(runPage{}).Size())
	}
}
