package vmm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"tandem/devices/virtio"
	"tandem/kvm"
	"tandem/lockstep/wire"
)

// identity is what makes a machine the machine that it is, as a log's header and a saved machine have it in JSON. Two
// machines with equal identities that are given the same state and the same inputs do the same.
type identity struct {
	MemoryBytes uint64             `json:"memory_bytes"`
	EpochNS     int64              `json:"epoch_ns"`
	TrapTSC     bool               `json:"trap_tsc"`
	MMIO        bool               `json:"virtio_mmio"`
	Disks       []virtio.BlkConfig `json:"disks"`
	NICs        []virtio.NetConfig `json:"nics"`
	Entropy     bool               `json:"entropy"`
	// VirtioConsole is null for a machine that has none.
	VirtioConsole *virtio.ConsoleConfig `json:"virtio_console"`
	CPUID         []kvm.CPUIDEntry      `json:"cpuid"`
}

func (m *Machine) identity() identity {
	id := identity{
		MemoryBytes: m.config.MemoryBytes, EpochNS: m.config.EpochNS, TrapTSC: m.config.TrapTSC, MMIO: m.config.MMIO,
		Entropy: m.config.Entropy, CPUID: m.leaves,
	}
	for _, d := range m.config.Disks {
		id.Disks = append(id.Disks, d.BlkConfig)
	}
	for _, n := range m.config.NICs {
		id.NICs = append(id.NICs, n.NetConfig)
	}
	if c := m.config.VirtioConsole; c != nil {
		id.VirtioConsole = &c.ConsoleConfig
	}
	return id
}

// header returns the header of the machine's log.
func (m *Machine) header() (*wire.Header, error) {
	configuration, err := json.Marshal(m.identity())
	if err != nil {
		return nil, err
	}
	return &wire.Header{
		Fingerprint:   wire.FingerprintOf(wire.Part{Name: "identity", Bytes: configuration}),
		Configuration: configuration,
	}, nil
}

// maxSavedMemoryBytes bounds what a header can make a host allocate. Memory is touched only where pages are.
const maxSavedMemoryBytes = 1 << 40

// ConfigOf returns the configuration of the machine that a header describes. Images, sinks and the like are missing: a
// machine that follows a log needs none.
func ConfigOf(header *wire.Header) (Config, error) {
	var id identity
	decoder := json.NewDecoder(bytes.NewReader(header.Configuration))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&id); err != nil {
		return Config{}, fmt.Errorf("the configuration in the header: %w", err)
	}
	if want := wire.FingerprintOf(wire.Part{Name: "identity", Bytes: header.Configuration}); header.Fingerprint != want {
		return Config{}, errors.New("the header's fingerprint is not that of its configuration: the file was changed")
	}
	if id.MemoryBytes == 0 || id.MemoryBytes > maxSavedMemoryBytes {
		return Config{}, fmt.Errorf("the header tells of a machine with %d bytes of memory", id.MemoryBytes)
	}
	c := Config{
		MemoryBytes: id.MemoryBytes, EpochNS: id.EpochNS, TrapTSC: id.TrapTSC, MMIO: id.MMIO, Entropy: id.Entropy,
		CPUID: id.CPUID,
	}
	for i, d := range id.Disks {
		c.Disks = append(c.Disks, Disk{BlkConfig: d, Name: fmt.Sprintf("disk%d", i)})
	}
	for _, n := range id.NICs {
		c.NICs = append(c.NICs, NIC{NetConfig: n, Out: noSink{}})
	}
	if id.VirtioConsole != nil {
		c.VirtioConsole = &VirtioConsole{ConsoleConfig: *id.VirtioConsole, Out: noSink{}}
	}
	return c, nil
}

// noSink drops what is sent.
type noSink struct{}

func (noSink) Output([]byte) {}

// checkCPUID says how the processor that a machine was made for differs from what this host offers.
func checkCPUID(wanted, offered kvm.CPUID) error {
	for _, w := range wanted {
		o := offered.Find(w.Function, w.Index)
		if o == nil || *o != w {
			return fmt.Errorf("this host's processor differs from the one that the machine was made for: CPUID leaf %#x.%d is %s, not %s; use the same model",
				w.Function, w.Index, leafText(o), leafText(&w))
		}
	}
	if len(wanted) != len(offered) {
		return fmt.Errorf("this host's processor differs from the one that the machine was made for: it has %d CPUID leaves, not %d; use the same model", len(offered), len(wanted))
	}
	return nil
}

func leafText(e *kvm.CPUIDEntry) string {
	if e == nil {
		return "missing"
	}
	return fmt.Sprintf("%08x %08x %08x %08x", e.EAX, e.EBX, e.ECX, e.EDX)
}
