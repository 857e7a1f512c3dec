package pci

import (
	"encoding/json"
	"fmt"
	"tandem/devices"
)

// busState is the state of the bus and of all configuration spaces. What the functions' registers behind their BARs
// hold is not part of it.
type busState struct {
	Address   uint32          `json:"address"`
	Functions []functionState `json:"functions"`
}

type functionState struct {
	Device  int    `json:"device"`
	Config  []byte `json:"config"`
	Pending bool   `json:"pending"`
}

// SaveState implements devices.Stateful.
func (b *Bus) SaveState() ([]byte, error) {
	s := busState{Address: b.address, Functions: []functionState{}}
	for _, f := range b.functions[:b.count] {
		s.Functions = append(s.Functions, functionState{f.device, f.config[:], f.pending})
	}
	return json.Marshal(s)
}

// LoadState implements devices.Stateful. It needs a bus with the same functions in the same order. It does not drive
// the interrupt lines: their levels are part of the interrupt controller's state.
func (b *Bus) LoadState(p []byte) error {
	var s busState
	if err := devices.DecodeState(p, &s); err != nil {
		return fmt.Errorf("pci: state: %w", err)
	}
	if s.Address&^0x80fffffc != 0 {
		return fmt.Errorf("pci: state: CONFIG_ADDRESS %#x has reserved bits set", s.Address)
	}
	if len(s.Functions) != b.count {
		return fmt.Errorf("pci: state has %d functions, this machine %d", len(s.Functions), b.count)
	}
	for i, fs := range s.Functions {
		if err := b.functions[i].check(fs); err != nil {
			return err
		}
	}

	b.address = s.Address
	clear(b.asserted)
	for i, fs := range s.Functions {
		f := b.functions[i]
		copy(f.config[:], fs.Config)
		f.pending = fs.Pending
		if f.pending && f.command()&commandINTxDisable == 0 {
			b.asserted[f.irq] |= 1 << f.device
		}
	}
	return nil
}

// check reports a state that f cannot have: only its writable bits may differ from what they are now.
func (f *Function) check(s functionState) error {
	if s.Device != f.device || len(s.Config) != configSize {
		return fmt.Errorf("pci: state: device %d with %d bytes where device %d with %d belongs",
			s.Device, len(s.Config), f.device, configSize)
	}
	if s.Pending && !f.interrupts() {
		return fmt.Errorf("pci: state: device %d has no interrupt and one is pending", f.device)
	}
	for i, v := range s.Config {
		if (v^f.config[i])&^f.writable[i] != 0 {
			return fmt.Errorf("pci: state: device %d: register %#02x is %#02x, here it is %#02x and cannot change",
				f.device, i, v, f.config[i])
		}
	}
	return nil
}
