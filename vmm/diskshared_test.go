package vmm

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"tandem/boot"
	"tandem/devices/virtio"
	"tandem/kvm"
	"tandem/lockstep"
	"tandem/lockstep/wire"
	"tandem/testdata/guests"
	"tandem/vmm/blk"
)

const sharedBytes = 1 << 20

// journalGuest is the guest disk-journal, running, with a shared disk.
func journalGuest(t *testing.T) (g *guestRun, path string, disk blk.Image) {
	t.Helper()
	system, err := kvm.Open("/dev/kvm")
	if err != nil {
		t.Skip(err)
	}
	defer system.Close()
	path = filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, make([]byte, sharedBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	if disk, err = blk.Open(blk.Options{Path: path, Shared: true}); err != nil {
		t.Fatal(err)
	}
	g = &guestRun{console: newSink(), debug: newSink(), ended: make(chan guestEnd, 1)}
	g.Machine, err = New(system, Config{
		MemoryBytes: guestMemoryBytes, EpochNS: guestEpochNS, Console: g.console, Debug: g.debug, MMIO: true,
		Disks: []Disk{{BlkConfig: virtio.BlkConfig{Sectors: sharedBytes / virtio.SectorSize}, Name: path, Image: disk}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	k, err := boot.ReadKernel(guests.Image("disk-journal"))
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Load(k, boot.Options{}); err != nil {
		t.Fatal(err)
	}
	g.GoLive()
	g.start()
	g.debug.await(t, "ready\n")
	return g, path, disk
}

func (g *guestRun) typed(t *testing.T, text string) {
	t.Helper()
	if err := g.Post(lockstep.Input{Kind: lockstep.KindConsole, Payload: []byte(text)}); err != nil && !errors.Is(err, lockstep.ErrDoorClosed) {
		t.Fatal(err)
	}
}

// A machine whose disk another host takes ends, and says why.
func TestLostDiskEndsTheMachine(t *testing.T) {
	g, path, disk := journalGuest(t)
	g.typed(t, "a")
	g.console.await(t, "A")
	form, err := blk.FormOf(disk)
	if err != nil {
		t.Fatal(err)
	}
	replicas, err := blk.OpenReplicas([]blk.Options{{Path: path, Shared: true}}, []blk.Form{form}, 0)
	if err != nil {
		t.Fatal(err)
	}
	images, err := replicas.Finish()
	if err != nil {
		t.Fatal(err)
	}
	defer images[0].Close()
	if err := blk.Acquire(images[0]); err != nil {
		t.Fatal(err)
	}
	for letters := 2; ; letters++ {
		g.typed(t, "b") // the first ones are written: the machine has just made sure of its disk
		for len(g.console.String()) < letters {
			select {
			case end := <-g.ended:
				if !errors.Is(end.err, blk.ErrFenced) || !strings.Contains(end.err.Error(), path) {
					t.Errorf("the machine ends with %v: %v", end.cause, end.err)
				}
				return
			default:
				_ = g.Visit(func() {}) // it may have ended
			}
		}
	}
}

// What changes a shared disk is output of a machine that has a backup: it has a record in the log, and nothing of it is in the file
// before it is let go; without a backup nothing is held.
func TestSharedDiskIsOutput(t *testing.T) {
	g, path, _ := journalGuest(t)
	g.typed(t, "x")
	g.console.await(t, "X")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var held []Output
	transfer, err := g.BeginTransfer()
	if err != nil {
		t.Fatal(err)
	}
	var failure error
	err = g.Visit(func() {
		failure = transfer.Final(io.Discard, PairLog{
			NewRing: func(base wire.Base) *wire.Ring { return wire.NewRing(16<<20, base, nil) },
			Hold: func(o Output) {
				mu.Lock()
				defer mu.Unlock()
				held = append(held, o)
			},
		})
	})
	if err := errors.Join(err, failure); err != nil {
		t.Fatal(err)
	}
	wanted := func(n int) []Output {
		for {
			if err := g.Visit(func() {}); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			if len(held) >= n {
				defer mu.Unlock()
				return append([]Output(nil), held...)
			}
			mu.Unlock()
		}
	}
	g.typed(t, "a")
	const requests = 8
	wanted(requests)
	for range 100 { // the guest goes on, but not with this
		if err := g.Visit(func() {}); err != nil {
			t.Fatal(err)
		}
	}
	out := wanted(requests)
	if len(out) != requests {
		t.Errorf("%d outputs, want %d", len(out), requests)
	}
	for _, o := range out {
		if o.Kind != lockstep.KindDisk || o.Device != 0 || o.Sequence == 0 {
			t.Errorf("output of %v %d, caused by record %d", o.Kind, o.Device, o.Sequence)
		}
	}
	if image, err := os.ReadFile(path); err != nil || !bytes.Equal(image, before) {
		t.Errorf("what is held is in the file: %v", err)
	}
	for _, o := range out {
		o.Release()
	}
	echo := wanted(requests + 1)[requests]
	if echo.Kind != lockstep.KindConsole || string(echo.Data) != "A" {
		t.Errorf("then %v %q leaves, want the echo", echo.Kind, echo.Data)
	}
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte{'a', 2, 0, 0, 0, 0, 0, 0}, virtio.SectorSize/8)
	if !bytes.Equal(image[:virtio.SectorSize], want) || !bytes.Equal(image[20*virtio.SectorSize:21*virtio.SectorSize], want) {
		t.Errorf("the file has % x", image[:8])
	}
	// The backup is lost: what waits goes, and what follows too.
	g.typed(t, "b")
	wanted(requests + 1 + requests)
	err = g.Visit(func() {
		g.LogOutput()
		for _, o := range held[requests:] {
			o.Release()
		}
		failure = g.Detach()
	})
	if err := errors.Join(err, failure); err != nil {
		t.Fatal(err)
	}
	g.typed(t, "c\x04")
	if cause := g.wait(t); cause != CauseHalt {
		t.Error(cause)
	}
	if got := g.console.String(); got != "XABC" {
		t.Errorf("the guest said %q", got)
	}
}
