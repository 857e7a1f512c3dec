package blk

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"tandem/devices/virtio"
)

const sharedSectors = 64

// sharedFile makes the file of a shared disk and opens it as the primary does.
func sharedFile(t *testing.T) (path string, image Image) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, make([]byte, sharedSectors*virtio.SectorSize), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, openShare(t, path)
}

func openShare(t *testing.T, path string) Image {
	t.Helper()
	image, err := Open(Options{Path: path, Shared: true})
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// sharedReplica opens what a host that follows has of a shared disk.
func sharedReplica(t *testing.T, path string, primary Image) Image {
	t.Helper()
	form, err := FormOf(primary)
	if err != nil {
		t.Fatal(err)
	}
	r, err := OpenReplicas([]Options{{Path: path, Shared: true}}, []Form{form}, 0)
	if err != nil {
		t.Fatal(err)
	}
	images, err := r.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return images[0]
}

// sector returns a sector of a file.
func sector(t *testing.T, path string, n int) []byte {
	t.Helper()
	all, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return all[n*virtio.SectorSize:][:virtio.SectorSize]
}

func writeOf(id, at uint64, fill byte) virtio.DiskRequest {
	return virtio.DiskRequest{ID: id, Op: virtio.DiskWrite, Sector: at, Sectors: 1, Data: bytes.Repeat([]byte{fill}, virtio.SectorSize)}
}

func filled(p []byte, fill byte) bool { return bytes.Equal(p, bytes.Repeat([]byte{fill}, len(p))) }

func closeServer(t *testing.T, s *Server) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// What is held does not reach the file, what does not overlap goes on beside it, and what does overlap waits.
func TestHeldRequestsWait(t *testing.T) {
	path, image := sharedFile(t)
	s, c, _ := newServer(t, image)
	s.SubmitHeld(writeOf(1, 3, 'a'))
	s.SubmitHeld(virtio.DiskRequest{ID: 2, Op: virtio.DiskDiscard, Sector: 5, Sectors: 1})
	s.SubmitHeld(virtio.DiskRequest{ID: 3, Op: virtio.DiskFlush})
	s.Submit(virtio.DiskRequest{ID: 4, Op: virtio.DiskRead, Sector: 3, Sectors: 2})
	for id := uint64(5); id < 50; id++ {
		s.Submit(writeOf(id, 8+id%8, byte(id)))
		if got := c.wait(1); got[id].Status != virtio.DiskOK || got[id].ID != id {
			t.Fatalf("request %d: %+v", id, got)
		}
	}
	if p := sector(t, path, 3); !filled(p, 0) {
		t.Errorf("a held write is in the file: %q", p[:8])
	}
	s.Release(3)
	s.Release(1)
	s.Release(2)
	s.Release(77) // nobody's
	got := c.wait(4)
	if p := sector(t, path, 3); !filled(p, 'a') {
		t.Errorf("what was let go is not in the file: %q", p[:8])
	}
	if read := got[4].Data; len(read) != 2*virtio.SectorSize || !filled(read[:virtio.SectorSize], 'a') {
		t.Error("a read has gone before a held write")
	}
	// Nobody lets these go any more.
	s.SubmitHeld(writeOf(50, 3, 'b'))
	s.Submit(virtio.DiskRequest{ID: 51, Op: virtio.DiskRead, Sector: 3, Sectors: 1})
	closeServer(t, s)
	if len(c.ch) != 0 || !filled(sector(t, path, 3), 'a') {
		t.Error("a request that was held at the end was done")
	}
}

// The log must have the completions of writes that overlap in their order, before the later one is done: whoever takes over does
// again those that have none.
func TestSharedCompletesOverlapsInOrder(t *testing.T) {
	path, image := sharedFile(t)
	const writes = 300
	last := uint64(0)
	ended := make(chan struct{})
	s := NewServer("vda", image, slog.New(slog.DiscardHandler), func(p []byte) {
		c, err := virtio.DecodeDiskCompletion(p)
		if err != nil || c.ID != last+1 || c.Status != virtio.DiskOK {
			t.Errorf("completion %+v behind %d: %v", c, last, err)
		}
		last = c.ID
		if got := sector(t, path, 0); !filled(got, byte(c.ID)) {
			t.Errorf("write %d is complete, the file has that of %d", byte(c.ID), got[0])
		}
		if c.ID == writes {
			close(ended)
		}
	})
	for id := uint64(1); id <= writes; id++ {
		s.Submit(writeOf(id, 0, byte(id)))
	}
	<-ended
	closeServer(t, s)
}

// A host that follows touches nothing. When it takes over it does again what has no completion, in order, and the host before it can
// do no more.
func TestSharedChangesHands(t *testing.T) {
	path, image := sharedFile(t)
	primary, done, text := newServer(t, image)
	follower := NewFollower("vda", sharedReplica(t, path, image), slog.New(slog.DiscardHandler))
	requests := []virtio.DiskRequest{writeOf(1, 0, 'a'), writeOf(2, 0, 'b'), writeOf(3, 1, 'c'), writeOf(4, 1, 'd'), writeOf(5, 2, 'e')}
	for _, r := range requests {
		primary.SubmitHeld(r)
		follower.Submit(r)
	}
	for id := range uint64(3) {
		primary.Release(id + 1)
	}
	for _, c := range done.wait(3) {
		if c.ID == 3 {
			continue // its completion is lost with the primary
		}
		if err := follower.Await(c.Append(nil)); err != nil {
			t.Error(err)
		}
	}
	if follower.shared.file != nil {
		t.Error("a host that follows has the file open")
	}
	if p := sector(t, path, 1); !filled(p, 'c') {
		t.Errorf("the file has %q before the host takes over", p[:4])
	}
	if err := Acquire(follower.image); err != nil {
		t.Fatal(err)
	}
	lives := newCollector(t)
	if err := follower.GoLive(lives.done); err != nil {
		t.Fatal(err)
	}
	if got := lives.wait(3); got[3].ID == 0 || got[4].ID == 0 || got[5].ID == 0 {
		t.Errorf("completed %v", got)
	}
	// The host before wakes up with what it was let do.
	primary.Release(4)
	primary.Release(5)
	primary.Submit(writeOf(6, 7, 'z'))
	closeServer(t, primary)
	if len(done.ch) != 0 {
		t.Error("the host that lost the disk completes requests")
	}
	for n, want := range map[int]byte{0: 'b', 1: 'd', 2: 'e', 7: 0} {
		if p := sector(t, path, n); !filled(p, want) {
			t.Errorf("sector %d has %q, want %q", n, p[:4], want)
		}
	}
	if !strings.Contains(text.String(), "has lost a shared disk") || !strings.Contains(text.String(), "took it (number 2)") {
		t.Errorf("the host that lost it says %q", text)
	}
	form, err := FormOf(follower.image)
	if err != nil || form.Number != 2 {
		t.Errorf("the next host is told %+v: %v", form, err)
	}
	closeServer(t, follower)
}

// A host looks again soon, and waits before it writes what a predecessor may still be sure to be allowed to.
func TestSharedLooksAgain(t *testing.T) {
	path, image := sharedFile(t)
	s := image.(*shared)
	if hostTime() < s.mayWriteAt {
		if f, wait, err := s.look(); f == nil && (wait <= 0 || wait > graceOfHolder || err != nil) {
			t.Errorf("a new holder is to wait for %v: %v", wait, err)
		}
	}
	if _, err := image.WriteAt([]byte{1}, 0); err != nil {
		t.Fatal(err)
	}
	if hostTime() < s.mayWriteAt {
		t.Error("a new holder wrote at once")
	}
	other := sharedReplica(t, path, image)
	if err := Acquire(other); err != nil {
		t.Fatal(err)
	}
	s.sureUntil = 0
	if _, err := image.WriteAt([]byte{2}, 0); !errors.Is(err, ErrFenced) {
		t.Errorf("a holder that lost it writes: %v", err)
	}
	if err := image.Zero(0, 512, true); !errors.Is(err, ErrFenced) {
		t.Errorf("and zeroes: %v", err)
	}
	if _, err := other.ReadAt(make([]byte, 1), 0); err != nil {
		t.Error(err)
	}
	for _, i := range []Image{image, other} {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Only one of two that follow the same primary gets the disk, and nobody who comes late.
func TestFenceHasOneHolder(t *testing.T) {
	path, image := sharedFile(t)
	one, two := sharedReplica(t, path, image), sharedReplica(t, path, image)
	if err := Acquire(one); err != nil {
		t.Fatal(err)
	}
	if err := Acquire(one); err != nil {
		t.Errorf("again: %v", err)
	}
	if err := Acquire(two); !errors.Is(err, ErrFenced) || !strings.Contains(err.Error(), path) {
		t.Errorf("two hosts have it: %v", err)
	}
	f := image.(*shared).fence
	late, err := openFence(f.folder)
	if err != nil {
		t.Fatal(err)
	}
	if err := late.take(1); !errors.Is(err, ErrFenced) {
		t.Errorf("a number that was taken is taken again: %v", err)
	}
	// Its number was won, and the host stood still before it had its file: who comes next ends it nevertheless.
	if err := late.take(3); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(late.path(3)); err != nil {
		t.Fatal(err)
	}
	next, err := openFence(f.folder)
	if err != nil {
		t.Fatal(err)
	}
	if err := next.take(4); err != nil {
		t.Fatal(err)
	}
	if err := late.take(3); !errors.Is(err, ErrFenced) {
		t.Errorf("a late holder: %v", err)
	}
	for n, want := range map[uint64]bool{1: false, 2: false, 3: false, 4: true, 5: false} {
		if err := next.check(n); (err == nil) != want || err != nil && !errors.Is(err, ErrFenced) {
			t.Errorf("number %d: %v", n, err)
		}
	}
	for _, i := range []Image{image, one, two} {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Of hosts that want the same number at the same time one gets it.
func TestFenceIsWonOnce(t *testing.T) {
	_, image := sharedFile(t)
	defer image.Close()
	folder := image.(*shared).fence.folder
	for n := uint64(2); n < 12; n++ {
		won := make(chan *fence, 8)
		var racers sync.WaitGroup
		for range cap(won) {
			f, err := openFence(folder)
			if err != nil {
				t.Fatal(err)
			}
			racers.Go(func() {
				switch err := f.take(n); {
				case err == nil:
					won <- f
				case !errors.Is(err, ErrFenced):
					t.Error(err)
				}
			})
		}
		racers.Wait()
		if len(won) != 1 {
			t.Fatalf("%d hosts have won number %d", len(won), n)
		}
		f := <-won
		if err := errors.Join(f.check(n), f.take(n)); err != nil {
			t.Errorf("the winner of %d: %v", n, err)
		}
		if err := f.check(n - 1); !errors.Is(err, ErrFenced) {
			t.Errorf("holder %d beside %d: %v", n-1, n, err)
		}
	}
}

// Storage that goes away takes the disk from nobody and gives it to nobody: requests wait until it is back.
func TestSharedWaitsForStorage(t *testing.T) {
	path, image := sharedFile(t)
	next := sharedReplica(t, path, image)
	if err := image.Close(); err != nil {
		t.Fatal(err)
	}
	folder := path + fenceSuffix
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	move(folder, folder+".away")
	follower := NewFollower("vda", next, slog.New(slog.DiscardHandler))
	follower.Submit(writeOf(1, 0, 'a'))
	if err := Acquire(next); err != nil {
		t.Fatalf("storage that is away takes the disk: %v", err)
	}
	c := newCollector(t)
	if err := follower.GoLive(c.done); err != nil {
		t.Fatal(err)
	}
	if p := sector(t, path, 0); !filled(p, 0) {
		t.Error("a host that does not have the disk writes")
	}
	move(folder+".away", folder)
	if got := c.wait(1); got[1].Status != virtio.DiskOK {
		t.Errorf("%+v", got)
	}
	holder := next.(*shared)
	leave := func() {
		t.Helper()
		move(folder, folder+".away")
		holder.mu.Lock()
		holder.sureUntil = 0
		holder.mu.Unlock()
	}
	// And while a host has it: it is unsure, not fenced.
	leave()
	if _, _, err := holder.look(); err == nil || errors.Is(err, ErrFenced) {
		t.Errorf("a fence that is away: %v", err)
	}
	follower.Submit(writeOf(2, 0, 'b'))
	move(folder+".away", folder)
	if got := c.wait(1); got[2].Status != virtio.DiskOK {
		t.Errorf("%+v", got)
	}
	// What waits at the end is given up.
	leave()
	follower.Submit(writeOf(3, 0, 'c'))
	closeServer(t, follower)
	if p := sector(t, path, 0); !filled(p, 'b') {
		t.Errorf("the file has %q", p[:4])
	}
}

func TestSharedRefuses(t *testing.T) {
	path, image := sharedFile(t)
	defer image.Close()
	form, err := FormOf(image)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, another := sharedFile(t)
	defer another.Close()
	alone := filepath.Join(t.TempDir(), "alone")
	if err := os.WriteFile(alone, make([]byte, form.Size), 0o600); err != nil {
		t.Fatal(err)
	}
	share := func(path string) Options { return Options{Path: path, Shared: true} }
	for name, c := range map[string]struct {
		o    Options
		says string
	}{
		"in use":     {share(path), "another guest has it in use"},
		"in use too": {Options{Path: path}, "another guest has it in use"},
		"overlay":    {Options{Path: path, Shared: true, Overlay: "o"}, "leave overlay=o or shared out"},
		"read-only":  {Options{Path: path, Shared: true, ReadOnly: true}, "leave shared out"},
		"fence":      {Options{Path: alone, Fence: "f"}, "add shared"},
		"none":       {share(path + "x"), "there is no such file"},
		"no folder":  {Options{Path: alone, Shared: true, Fence: filepath.Join(alone, "x")}, "its fence"},
	} {
		if image, err := Open(c.o); err == nil {
			t.Errorf("%s: it is opened", name)
			image.Close()
		} else if !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	with := func(change func(*Form)) Form {
		f := form
		change(&f)
		return f
	}
	for name, c := range map[string]struct {
		o    Options
		f    Form
		says string
	}{
		"no fence":       {share(alone), form, "is not what the primary has made beside it"},
		"another file":   {share(elsewhere), form, "belongs to another disk"},
		"another size":   {share(path), with(func(f *Form) { f.Size *= 2 }), "32768 bytes here, 65536 there"},
		"not the holder": {share(path), with(func(f *Form) { f.Number = 9 }), "the primary does not have it any more"},
		"a replica":      {Options{Path: alone}, form, "one that both hosts share; add shared"},
		"not shared":     {share(path), Form{Kind: Raw, Size: form.Size}, "the primary's is its own"},
		"no identity":    {share(path), with(func(f *Form) { f.Identity = "" }), "does not say which shared disk"},
		"long identity":  {share(path), with(func(f *Form) { f.Identity = strings.Repeat("x", 999) }), "does not say which shared disk"},
		"no number":      {share(path), with(func(f *Form) { f.Number = 0 }), "does not say which shared disk"},
		"last number":    {share(path), with(func(f *Form) { f.Number = math.MaxUint64 }), "does not say which shared disk"},
		"a base":         {share(path), with(func(f *Form) { f.Base = "00" }), "primary"},
	} {
		if r, err := OpenReplicas([]Options{c.o}, []Form{c.f}, 0); err == nil {
			t.Errorf("%s: it is taken", name)
			r.Close()
		} else if !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(alone + fenceSuffix); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a host that follows makes a fence: %v", err)
	}
}

// Nothing of a shared disk is sent, and nothing of it stands in the way of what is.
func TestSharedIsNotSent(t *testing.T) {
	path, image := sharedFile(t)
	tracked := Track(image)
	defer tracked.Close()
	row, err := NewRow([]*Tracked{tracked})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tracked.WriteAt(bytes.Repeat([]byte{1}, 512), 0); err != nil {
		t.Fatal(err)
	}
	transfer := row.Begin(0)
	if p, err := transfer.Next(nil); p != nil || err != nil || row.Size() != 0 || transfer.Left() != 0 {
		t.Errorf("a part of %d bytes of a row of %d, %d left: %v", len(p), row.Size(), transfer.Left(), err)
	}
	if !filled(sector(t, path, 0), 1) {
		t.Error("the write is not in the file")
	}
}
