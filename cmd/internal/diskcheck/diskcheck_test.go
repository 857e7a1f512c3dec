package diskcheck

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// memory is a disk in memory, of which writes fail as fails says.
type memory struct {
	p     []byte
	fails func(write int) bool
	n     int
}

var errFull = errors.New("full")

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.n++
	if m.fails != nil && m.fails(m.n) {
		return 0, errFull
	}
	return copy(m.p[off:], p), nil
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > int64(len(m.p)) {
		return 0, io.ErrUnexpectedEOF
	}
	return copy(p, m.p[off:]), nil
}

func never(int64) bool { return false }

func TestWrittenIsVerified(t *testing.T) {
	plan := Plan{Seed: 7, Writes: 200, Blocks: 64}
	disk := &memory{p: make([]byte, 64*BlockBytes)}
	buffer := make([]byte, MaxRunBytes)
	if uncertain, err := plan.Write(disk, buffer); err != nil || len(uncertain) != 0 {
		t.Fatal(uncertain, err)
	}
	if err := plan.Verify(disk, buffer, never); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 20, BlockBytes - 1, 40*BlockBytes + 100} {
		disk.p[at] ^= 1
		if plan.Verify(disk, buffer, never) == nil || plan.Verify(disk, buffer, func(int64) bool { return true }) == nil {
			t.Errorf("byte %d was changed and is not found", at)
		}
		disk.p[at] ^= 1
	}
}

func TestFailedWritesAreUncertain(t *testing.T) {
	plan := Plan{Seed: 8, Writes: 50, Blocks: 64}
	disk := &memory{p: make([]byte, 64*BlockBytes), fails: func(n int) bool { return n > 25 }}
	buffer := make([]byte, MaxRunBytes)
	uncertain, err := plan.Write(disk, buffer)
	if !errors.Is(err, errFull) || len(uncertain) == 0 {
		t.Fatal(uncertain, err)
	}
	if err := plan.Verify(disk, buffer, func(b int64) bool { return uncertain[b] }); err != nil {
		t.Error(err)
	}
	if err := plan.Verify(disk, buffer, never); err == nil || !strings.Contains(err.Error(), "is not what write") {
		t.Errorf("writes that failed go unseen: %v", err)
	}
}
