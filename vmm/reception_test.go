package vmm

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"tandem/kvm"
	"tandem/lockstep/wire"
	"tandem/testdata/guests"
	"tandem/vmm/sums"
)

const (
	contentAt    = 8 << 20 // guest memory that the guest does not use, and the tests fill
	contentPages = 512
)

// source is a machine that is sent.
type source struct {
	*guestRun
	t *testing.T
}

// newSource starts a guest with content in its memory.
func newSource(t *testing.T, seed byte) *source {
	g := loadGuest(t, guests.Image("uart-echo"), 0)
	fill(t, g.memory, seed)
	g.start()
	g.debug.await(t, "ready")
	return &source{g, t}
}

// end ends the guest.
func (s *source) end() {
	s.Stop()
	s.wait(s.t)
}

func fill(t *testing.T, memory *kvm.Memory, seed byte) {
	t.Helper()
	p := make([]byte, contentPages*kvm.PageBytes)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(p) // never fails
	if err := memory.WriteAt(p, contentAt); err != nil {
		t.Fatal(err)
	}
}

func newRAM(t *testing.T, memoryBytes uint64) *kvm.Memory {
	t.Helper()
	memory, err := kvm.NewMemory(regions(memoryBytes))
	if err != nil {
		t.Fatal(err)
	}
	return memory
}

// told asks a reception as a peer would, through what a test makes of the answer.
type told struct {
	of     chan *Reception
	key    sums.Key
	asked  []pageRange
	answer func([]sums.Sum) []sums.Sum

	reception *Reception
	most      int // how many questions were open at once
}

func (a *told) Ask(first uint64, count int) error {
	a.asked = append(a.asked, pageRange{first, count})
	a.most = max(a.most, len(a.asked))
	return nil
}

func (a *told) Answer() ([]sums.Sum, error) {
	if a.reception == nil {
		if a.reception = <-a.of; a.reception == nil {
			return nil, io.ErrClosedPipe
		}
	}
	q := a.asked[0]
	a.asked = a.asked[1:]
	return a.answer(a.reception.Sums(a.key, q.first, q.count)), nil
}

func asTold(s []sums.Sum) []sums.Sum { return s }

// send sends the machine to a host with memory in hand. Of the stream so many bytes arrive; 0 is all.
func (s *source) send(hand *kvm.Memory, answer func([]sums.Sum) []sums.Sum, arrive int64) (*Machine, *kvm.Memory, *Transfer, error) {
	t := s.t
	t.Helper()
	system, err := kvm.Open("/dev/kvm")
	if err != nil {
		t.Fatal(err)
	}
	defer system.Close()
	r, w := io.Pipe()
	var stream io.Reader = r
	if arrive > 0 {
		stream = io.LimitReader(r, arrive)
	}
	asker := &told{of: make(chan *Reception, 1), key: sums.NewKey(), answer: answer}
	transfer, err := s.BeginTransfer()
	if err != nil {
		t.Fatal(err)
	}
	transfer.Compare(asker.key, asker)
	sent := make(chan error, 1)
	go func() {
		err := transfer.Head(w)
		if err == nil {
			_, err = transfer.Round(w)
		}
		if err == nil {
			err = errors.Join(s.Visit(func() {
				err = transfer.Final(w, PairLog{NewRing: func(b wire.Base) *wire.Ring { return wire.NewRing(16<<20, b, nil) }, Hold: func(Output) {}})
			}), err)
		}
		sent <- errors.Join(err, w.Close())
	}()
	var m *Machine
	var left *kvm.Memory
	reception, failure := Receive(system, stream, func() *kvm.Memory { return hand }, func(c *Config) error { return nil })
	asker.of <- reception
	if failure == nil {
		m, left, failure = reception.Machine(stream)
	}
	r.CloseWithError(io.ErrClosedPipe)
	if err := <-sent; (err == nil) != (failure == nil) {
		t.Fatalf("sent: %v; received: %v", err, failure)
	}
	if asker.most > sums.Ahead {
		t.Errorf("%d questions were open at once", asker.most)
	}
	if failure != nil {
		if err := s.Visit(func() { err = s.Detach() }); err != nil {
			t.Fatal(err)
		}
	}
	return m, left, transfer, failure
}

func sameRAM(t *testing.T, a, b *kvm.Memory) {
	t.Helper()
	for i, r := range a.Regions() {
		x, err := a.Bytes(r.Base, r.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		y, err := b.Bytes(r.Base, b.Regions()[i].Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(x, y) {
			t.Fatalf("region %d differs", i)
		}
	}
}

// Whatever a host has in hand, and whatever it says of it, the machine that it makes has the guest's memory, unless it lies: then it
// has what it lied.
func TestReceptionWithMemoryInHand(t *testing.T) {
	for _, c := range []struct {
		name   string
		hand   func(t *testing.T) *kvm.Memory
		answer func([]sums.Sum) []sums.Sum
		same   uint64 // pages of the content that are not sent
	}{
		{"nothing", func(*testing.T) *kvm.Memory { return nil }, asTold, 0},
		{"another size", func(t *testing.T) *kvm.Memory { return newRAM(t, 2*guestMemoryBytes) }, asTold, 0},
		{"the same", func(t *testing.T) *kvm.Memory {
			m := newRAM(t, guestMemoryBytes)
			fill(t, m, 1)
			return m
		}, asTold, contentPages},
		{"another content", func(t *testing.T) *kvm.Memory {
			m := newRAM(t, guestMemoryBytes)
			fill(t, m, 2)
			return m
		}, asTold, 0},
		{"a part, and content where the guest has none", func(t *testing.T) *kvm.Memory {
			m := newRAM(t, guestMemoryBytes)
			fill(t, m, 1)
			for _, gpa := range []uint64{contentAt + 7, 20 << 20, guestMemoryBytes - 1} {
				if err := m.WriteAt([]byte{1}, gpa); err != nil {
					t.Fatal(err)
				}
			}
			return m
		}, asTold, contentPages - 1},
		{"sums that are too few", func(t *testing.T) *kvm.Memory {
			m := newRAM(t, guestMemoryBytes)
			fill(t, m, 1)
			return m
		}, func(s []sums.Sum) []sums.Sum { return s[:min(1, len(s))] }, 1},
		{"sums of something else", func(t *testing.T) *kvm.Memory {
			m := newRAM(t, guestMemoryBytes)
			fill(t, m, 1)
			return m
		}, func(s []sums.Sum) []sums.Sum {
			for i := range s {
				s[i][0]++
			}
			return s
		}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSource(t, 1)
			m, left, transfer, err := s.send(c.hand(t), c.answer, 0)
			if err != nil || left != nil {
				t.Fatalf("%v, memory left: %v", err, left != nil)
			}
			s.end()
			sameRAM(t, s.memory, m.memory)
			// The guest's own few pages are the same by chance, or not.
			if got := transfer.Same(); got < c.same || c.same == 0 && got != 0 {
				t.Errorf("%d pages were the same, want %d", got, c.same)
			}
			if got := transfer.Pages() + transfer.Same(); got < contentPages {
				t.Errorf("%d pages were sent or the same", got)
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// What a transfer that broke off has brought is in hand for the next.
func TestReceptionThatBreaksOff(t *testing.T) {
	s := newSource(t, 1)
	_, left, _, err := s.send(nil, asTold, 1<<20)
	if err == nil || left == nil {
		t.Fatalf("error %v, memory left: %v", err, left != nil)
	}
	m, _, transfer, err := s.send(left, asTold, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.end()
	sameRAM(t, s.memory, m.memory)
	if transfer.Same() < contentPages/4 || transfer.Pages() < contentPages/4 {
		t.Errorf("%d pages were sent, %d were in hand", transfer.Pages(), transfer.Same())
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// A primary that says of a page that it is the same, which this host has told nothing of, is refused, and the memory stays in hand.
func TestReceptionRefusesWhatItHasNotTold(t *testing.T) {
	s := newSource(t, 1)
	s.end()
	system, err := kvm.Open("/dev/kvm")
	if err != nil {
		t.Fatal(err)
	}
	defer system.Close()
	for name, asked := range map[string]bool{"not told": false, "told": true} {
		var stream bytes.Buffer
		if err := (&Transfer{machine: s.Machine}).Head(&stream); err != nil {
			t.Fatal(err)
		}
		w := wire.NewPageWriter(nil)
		w.Begin(&stream)
		if err := errors.Join(w.State(nil), w.Same(contentAt/kvm.PageBytes), w.End()); err != nil {
			t.Fatal(err)
		}
		hand := newRAM(t, guestMemoryBytes)
		fill(t, hand, 3)
		c, err := Receive(system, &stream, func() *kvm.Memory { return hand }, func(*Config) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		if asked {
			// Asked for what is no memory, too.
			if got := c.Sums(sums.Key{}, contentAt/kvm.PageBytes, 1); len(got) != 1 {
				t.Fatalf("%d sums", len(got))
			}
			for _, first := range []uint64{guestMemoryBytes / kvm.PageBytes, 1<<63 - 1} {
				if got := c.Sums(sums.Key{}, first, 4096); len(got) != 0 {
					t.Errorf("%d sums of what is no memory", len(got))
				}
			}
		}
		_, left, err := c.Machine(&stream)
		var malformed *wire.FormatError
		if refused := errors.As(err, &malformed); refused == asked || left == nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := c.Sums(sums.Key{}, contentAt/kvm.PageBytes, 1); len(got) != 0 {
			t.Errorf("%s: sums are told behind the end", name)
		}
		if err := left.Close(); err != nil {
			t.Error(err)
		}
	}
}
