package blk

import (
	"bytes"
	"errors"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tandem/vmm/blk/blktest"
)

func TestOverlayKeepsWritesApart(t *testing.T) {
	const size = 64<<10 + 512 // the last cluster is not whole
	base := imageFile(t, "base", size)
	before, err := os.ReadFile(base)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "overlay")
	want := bytes.Clone(before)
	random := rand.New(rand.NewSource(3))
	for range 5 {
		image, err := Open(Options{Path: base, Overlay: path})
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			change(t, random, image, want)
			off := random.Intn(size)
			n := random.Intn(size - off)
			if !bytes.Equal(read(t, image, int64(off), n), want[off:off+n]) {
				t.Fatalf("%d bytes at %d are wrong", n, off)
			}
		}
		if err := image.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if after, err := os.ReadFile(base); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the base was written to (%v)", err)
	}
}

// change makes a random write or range of zeros, in image and in want.
func change(t testing.TB, random *rand.Rand, image Image, want []byte) (off, n int) {
	t.Helper()
	off = random.Intn(len(want)/512) * 512
	n = min(1+random.Intn(20), (len(want)-off)/512) * 512
	switch random.Intn(4) {
	case 0:
		if err := image.Zero(int64(off), int64(n), random.Intn(2) == 0); err != nil {
			t.Fatal(err)
		}
		clear(want[off : off+n])
	default:
		random.Read(want[off : off+n])
		write(t, image, int64(off), want[off:off+n])
	}
	return off, n
}

// memoryOverlay makes an overlay in memory over base.
func memoryOverlay(t testing.TB, base Image) (*overlay, *blktest.Disk) {
	t.Helper()
	print, err := fingerprint(base)
	if err != nil {
		t.Fatal(err)
	}
	h := header{size: base.Size(), fingerprint: print, base: "/base"}
	p, err := h.encode()
	if err != nil {
		t.Fatal(err)
	}
	d := blktest.New(h.dataOffset() + h.size)
	if _, err := d.WriteAt(p, 0); err != nil {
		t.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	o, err := newOverlay(d, base)
	if err != nil {
		t.Fatal(err)
	}
	return o, d
}

// TestOverlaySurvivesPowerLoss cuts the power at random instants: every sector has what was flushed last, or something
// written since.
func TestOverlaySurvivesPowerLoss(t *testing.T) {
	const sectors = 300
	for seed := range int64(60) {
		random := rand.New(rand.NewSource(seed))
		base := blktest.New(sectors * 512)
		content := make([]byte, sectors*512)
		random.Read(content)
		write(t, base, 0, content)
		o, d := memoryOverlay(t, base)

		flushed := bytes.Clone(content)
		since := map[int][][]byte{} // sector: contents written since the last flush
		for range 8 {
			for range random.Intn(10) {
				off, n := change(t, random, o, content)
				for s := off / 512; s < (off+n)/512; s++ {
					since[s] = append(since[s], bytes.Clone(content[s*512:][:512]))
				}
			}
			if random.Intn(2) == 0 {
				if err := o.Sync(); err != nil {
					t.Fatal(err)
				}
				copy(flushed, content)
				clear(since)
			}
			d = d.Crash(random)
			var err error
			if o, err = newOverlay(d, base); err != nil {
				t.Fatalf("seed %d: after a crash: %v", seed, err)
			}
			got := read(t, o, 0, len(content))
			for s := range sectors {
				now := got[s*512:][:512]
				if !bytes.Equal(now, flushed[s*512:][:512]) && !contains(since[s], now) {
					t.Fatalf("seed %d: sector %d has neither what was flushed nor what was written since", seed, s)
				}
			}
			copy(content, got)
			// What the crash left is what counts now, once it is flushed.
			if err := o.Sync(); err != nil {
				t.Fatal(err)
			}
			copy(flushed, got)
			clear(since)
		}
	}
}

func contains(contents [][]byte, p []byte) bool {
	for _, c := range contents {
		if bytes.Equal(c, p) {
			return true
		}
	}
	return false
}

// TestOverlayFaults makes each operation of the storage below fail in turn: the error comes out, and what had been
// there stays.
func TestOverlayFaults(t *testing.T) {
	injected := errors.New("injected")
	for _, op := range []blktest.Op{blktest.Read, blktest.Write, blktest.Zero, blktest.Sync} {
		t.Run(string(op), func(t *testing.T) {
			base := blktest.New(8 * clusterSize)
			o, d := memoryOverlay(t, base)
			write(t, o, 0, []byte("flushed"))
			if err := o.Sync(); err != nil {
				t.Fatal(err)
			}
			d.Fail = func(got blktest.Op, _, _ int64) error {
				if got == op {
					return injected
				}
				return nil
			}
			var err error
			switch op {
			case blktest.Read:
				_, err = o.ReadAt(make([]byte, 10), 0)
			case blktest.Write:
				_, err = o.WriteAt(make([]byte, 10), clusterSize)
			case blktest.Zero:
				err = o.Zero(clusterSize, clusterSize, true)
			case blktest.Sync:
				write(t, o, 0, []byte("twice  "))
				write(t, o, 3*clusterSize, []byte("new"))
				err = o.Sync()
			}
			if !errors.Is(err, injected) {
				t.Fatalf("error %v", err)
			}
			d.Fail = nil
			if op != blktest.Sync {
				if got := read(t, o, 0, 7); string(got) != "flushed" || o.has(1) {
					t.Errorf("content %q, cluster 1 is there: %v", got, o.has(1))
				}
				return
			}
			// The flush can be tried again, and then the map is complete.
			if err := o.Sync(); err != nil {
				t.Fatal(err)
			}
			again, err := newOverlay(d, base)
			if err != nil {
				t.Fatal(err)
			}
			if got := read(t, again, 3*clusterSize, 3); string(got) != "new" {
				t.Errorf("after the second flush: %q", got)
			}
		})
	}
}

func TestDamagedOverlays(t *testing.T) {
	base := blktest.New(8192 * clusterSize)
	o, d := memoryOverlay(t, base)
	write(t, o, 0, []byte("x"))
	if err := o.Sync(); err != nil {
		t.Fatal(err)
	}
	good := d.Bytes()
	changed := blktest.New(base.Size())
	write(t, changed, 0, []byte("another base"))
	tests := []struct {
		name   string
		base   Image
		damage func(p []byte)
		want   string
	}{
		{"magic", base, func(p []byte) { p[0]++ }, "not an overlay"},
		{"version", base, func(p []byte) { p[8]++ }, "version 2"},
		{"header bit", base, func(p []byte) { p[17] ^= 1 }, "header is damaged: its checksum"},
		{"map bit", base, func(p []byte) { p[headerSize+5] ^= 1 }, "map is damaged: the checksum of sector 0"},
		{"map sectors exchanged", base, func(p []byte) {
			copy(p[headerSize+mapSector:], p[headerSize:headerSize+mapSector])
		}, "map is damaged: the checksum of sector 1"},
		{"clusters behind the end", base, func(p []byte) {
			last := p[headerSize+2*mapSector:][:mapSector]
			last[mapBytes-1] = 1
			sealMapSector(2, last)
		}, "behind the end"},
		{"base", changed, func([]byte) {}, "base has changed"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := bytes.Clone(good)
			test.damage(p)
			bad := blktest.New(int64(len(p)))
			write(t, bad, 0, p)
			if _, err := newOverlay(bad, test.base); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one about %q", err, test.want)
			}
		})
	}
	short := blktest.New(100)
	if _, err := newOverlay(short, base); err == nil {
		t.Error("an overlay of 100 bytes was opened")
	}
}

// FuzzHeader feeds the header decoder: what it accepts, it encodes to the same bytes.
func FuzzHeader(f *testing.F) {
	h := header{size: 1 << 20, base: "/images/base"}
	p, err := h.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p, false)
	f.Add(p, true)
	f.Add([]byte(overlayMagic), true)
	f.Fuzz(func(t *testing.T, p []byte, seal bool) {
		if seal { // get past the checksum
			p = append(bytes.Clone(p), make([]byte, headerSize)...)[:headerSize]
			fixChecksum(p)
		}
		h, err := decodeHeader(p)
		if err != nil {
			return
		}
		again, err := h.encode()
		if err != nil || !bytes.Equal(p, again) {
			t.Fatalf("header %+v encodes to something else (%v)", h, err)
		}
		if h.dataOffset() < headerSize || h.dataOffset()+h.size < 0 {
			t.Fatalf("header %+v has an impossible data offset", h)
		}
	})
}
