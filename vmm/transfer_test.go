package vmm

import (
	"bytes"
	"testing"

	"tandem/kvm"
	"tandem/lockstep/wire"
	"tandem/testdata/guests"
)

// readingPort is a guest that reads a port into one page after the other, with a string instruction: KVM writes what was read
// into memory when the guest is entered again, or its state is captured.
var readingPort = []byte{
	0x66, 0xba, 0xf0, 0x02, // mov $0x2f0, %dx: a port where nothing is
	0xbf, 0x00, 0x00, 0x00, 0x01, // mov $0x1000000, %edi
	0x6c,                               // 1: insb
	0x81, 0xc7, 0xff, 0x0f, 0x00, 0x00, // add $0xfff, %edi
	0x81, 0xe7, 0xff, 0xff, 0xff, 0x01, // and $0x1ffffff, %edi
	0x81, 0xcf, 0x00, 0x00, 0x00, 0x01, // or $0x1000000, %edi
	0xeb, 0xeb, // jmp 1b
}

// A machine that is cut off between a port's answer and the guest's memory has it there on both sides.
func TestCutAtAStringInput(t *testing.T) {
	g := loadGuest(t, guests.Image("halt"), 0)
	var regs kvm.Regs
	if err := g.vcpu.Regs(&regs); err != nil {
		t.Fatal(err)
	}
	if err := g.memory.WriteAt(readingPort, regs.RIP); err != nil {
		t.Fatal(err)
	}
	g.start()
	transfer, err := g.BeginTransfer()
	if err != nil {
		t.Fatal(err)
	}
	var stream bytes.Buffer
	if err := transfer.Head(&stream); err != nil {
		t.Fatal(err)
	}
	if _, err := transfer.Round(&stream); err != nil {
		t.Fatal(err)
	}
	cut := false
	for !cut {
		err = g.Visit(func() {
			if g.exit.Reason != kvm.ReasonIO {
				return // the host has taken the guest out
			}
			cut = true
			log := PairLog{NewRing: func(base wire.Base) *wire.Ring { return wire.NewRing(wire.MinRing, base, nil) }, Hold: func(Output) {}}
			if err := transfer.Final(&stream, log); err != nil {
				t.Error(err)
			}
			compareReceived(t, g.Machine, &stream)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	g.Stop()
	<-g.ended
}

// compareReceived makes a machine of what was sent and compares its memory with the sender's.
func compareReceived(t *testing.T, sent *Machine, stream *bytes.Buffer) {
	t.Helper()
	system, err := kvm.Open("/dev/kvm")
	if err != nil {
		t.Error(err)
		return
	}
	defer system.Close()
	reception, err := Receive(system, stream, func() *kvm.Memory { return nil }, func(*Config) error { return nil })
	if err != nil {
		t.Error(err)
		return
	}
	received, _, err := reception.Machine(stream)
	if err != nil {
		t.Error(err)
		return
	}
	for _, region := range sent.memory.Regions() {
		for at := region.Base; at < region.Base+region.Bytes; at += kvm.PageBytes {
			here, err := sent.memory.Bytes(at, kvm.PageBytes)
			if err != nil {
				t.Error(err)
			}
			there, err := received.memory.Bytes(at, kvm.PageBytes)
			if err != nil {
				t.Error(err)
			}
			if !bytes.Equal(here, there) {
				t.Errorf("the page at %#x differs", at)
			}
		}
	}
	if err := received.Close(); err != nil {
		t.Error(err)
	}
}
