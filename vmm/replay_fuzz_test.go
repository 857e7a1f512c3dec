package vmm

import (
	"bytes"
	"encoding/json"
	"testing"

	"tandem/kvm"
	"tandem/lockstep/wire"
	"tandem/testdata/guests"
)

// FuzzLoadSaved gives a machine states that were not made by one: each must be taken or refused, and one that was taken
// must be a machine that can be asked, saved and run.
func FuzzLoadSaved(f *testing.F) {
	seed := loadGuest(f, guests.Random(500, 400), 0)
	state, err := seed.capture()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(mustJSON(state), []byte("page"), uint32(3))
	f.Add([]byte("{}"), []byte{}, uint32(0))
	f.Add([]byte(`{"position":18446744073709551615,"time_ns":-1,"cpu":"","parts":[]}`), []byte{0}, uint32(1<<31))
	m := loadGuest(f, guests.Image("halt"), 0)
	limit := m.pageLimit()
	f.Fuzz(func(t *testing.T, state, page []byte, number uint32) {
		var file bytes.Buffer
		w := wire.NewPageWriter(nil)
		w.Begin(&file)
		if err := w.State(state); err != nil {
			t.Skip(err)
		}
		content := make([]byte, kvm.PageBytes)
		copy(content, page)
		if err := w.Page(uint64(number), content); err != nil {
			t.Skip(err)
		}
		if err := w.End(); err != nil {
			t.Fatal(err)
		}
		if err := m.LoadSaved(&file); err != nil {
			return
		}
		if uint64(number) >= limit {
			t.Errorf("page %#x was loaded into a machine that ends at %#x", number, limit)
		}
		m.GoLive()
		m.StopAt(m.position+16, 0)
		m.Stop()
		if cause, err := m.Run(); err == nil && cause != CauseStopped && cause != CauseHalt && cause != CauseReset {
			t.Errorf("%v", cause)
		}
		if _, err := m.capture(); err != nil {
			t.Errorf("a state that was loaded can't be saved: %v", err)
		}
	})
}

// FuzzConfig reads headers' configurations that no machine wrote.
func FuzzConfig(f *testing.F) {
	m := loadGuest(f, guests.Image("halt"), 0)
	f.Add(mustJSON(m.identity()))
	f.Add([]byte(`{"memory_bytes":1099511627777}`))
	f.Add([]byte(`{"memory_bytes":4096,"disks":[{}],"nics":[{},{}],"cpuid":[{}]}`))
	f.Fuzz(func(t *testing.T, configuration []byte) {
		header := wire.Header{Configuration: configuration}
		header.Fingerprint = wire.FingerprintOf(wire.Part{Name: "identity", Bytes: configuration})
		c, err := ConfigOf(&header)
		if err != nil {
			return
		}
		if c.MemoryBytes == 0 || c.MemoryBytes > maxSavedMemoryBytes {
			t.Errorf("%d bytes of memory", c.MemoryBytes)
		}
		header.Fingerprint[0] ^= 1
		if _, err := ConfigOf(&header); err == nil {
			t.Error("a configuration is taken under another's fingerprint")
		}
	})
}

// FuzzFinal compares a machine with final states that no machine wrote.
func FuzzFinal(f *testing.F) {
	m := loadGuest(f, guests.Image("halt"), 0)
	own, err := m.Final()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(mustJSON(own))
	f.Add([]byte(`{"state":{"parts":[{"name":"pic","state":[]}]},"pages":[{"page":18446744073709551615}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var other Final
		if json.Unmarshal(text, &other) != nil {
			return
		}
		d := own.Differences(&other)
		equal := bytes.Equal(mustJSON(own.State), mustJSON(other.State)) && bytes.Equal(mustJSON(own.Pages), mustJSON(other.Pages))
		if equal && len(d) > 0 {
			t.Errorf("equal machines differ: %q", d)
		}
	})
}
