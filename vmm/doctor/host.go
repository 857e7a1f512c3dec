package doctor

import (
	"encoding/binary"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"tandem/kvm"
)

// Host is what the machine says of itself.
type Host struct {
	Processor string `json:"processor"`        // CPUID's brand string
	Vendor    string `json:"vendor"`           // CPUID's vendor string
	Kernel    string `json:"kernel"`           // uname -r
	Module    string `json:"module,omitempty"` // kvm_intel, kvm_amd, or nothing if neither shows in /sys/module
}

func describeHost(leaves kvm.CPUID) Host {
	h := Host{Processor: brand(leaves), Vendor: vendor(leaves)}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		h.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	for _, module := range []string{"kvm_intel", "kvm_amd"} {
		if _, err := os.Stat("/sys/module/" + module); err == nil {
			h.Module = module
		}
	}
	return h
}

// vendor is leaf 0's string, in EBX, EDX, ECX.
func vendor(leaves kvm.CPUID) string {
	e := leaves.Find(0, 0)
	if e == nil {
		return ""
	}
	return text(e.EBX, e.EDX, e.ECX)
}

// brand is the string of leaves 0x80000002 to 4.
func brand(leaves kvm.CPUID) string {
	var words []uint32
	for leaf := uint32(0x80000002); leaf <= 0x80000004; leaf++ {
		if e := leaves.Find(leaf, 0); e != nil {
			words = append(words, e.EAX, e.EBX, e.ECX, e.EDX)
		}
	}
	return text(words...)
}

func text(words ...uint32) string {
	var raw []byte
	for _, w := range words {
		raw = binary.LittleEndian.AppendUint32(raw, w)
	}
	return strings.TrimSpace(strings.TrimRight(string(raw), "\x00"))
}
