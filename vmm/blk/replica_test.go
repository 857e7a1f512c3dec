package blk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tandem/vmm/blk/blktest"
)

func formOf(t testing.TB, o Options) Form {
	t.Helper()
	image, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	f, err := FormOf(image)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestOpenReplicasErrors(t *testing.T) {
	folder := t.TempDir()
	base, other := imageFile(t, "base", 8192), imageFile(t, "other", 8192)
	if err := os.WriteFile(other, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	busy := imageFile(t, "busy", 8192)
	open(t, Options{Path: busy})
	raw := Form{Kind: Raw, Size: 8192}
	fixed := formOf(t, Options{Path: base, ReadOnly: true})
	over := formOf(t, Options{Path: base, Overlay: filepath.Join(folder, "primary's")})
	if fixed.Kind != ReadOnly || over.Kind != Overlay || fixed.Base != over.Base || len(over.Base) != 64 {
		t.Fatalf("forms %+v, %+v", fixed, over)
	}
	device := Form{Kind: Raw, Size: 2 << 20}
	tests := []struct {
		name string
		o    Options
		f    Form
		from int64
		want string
	}{
		{"in use", Options{Path: busy}, raw, 0, "another guest has it in use"},
		{"another size", Options{Path: base}, Form{Kind: Raw, Size: 4096}, 0, "the file has 8192 bytes, the primary's disk 4096"},
		{"no folder", Options{Path: folder + "/no/disk"}, raw, 0, "cannot create it"},
		{"to be gone on with, and not there", Options{Path: folder + "/gone"}, raw, 512, "has not kept"},
		{"overlay to be gone on with, and not there", Options{Path: base, Overlay: folder + "/gone"}, over, 512, "has not kept"},
		{"to be gone on with, and somebody's", Options{Path: base}, raw, 512, "has not kept"},
		{"no overlay", Options{Path: base}, over, 0, "the primary's is an overlay"},
		{"overlay", Options{Path: base, Overlay: folder + "/o"}, raw, 0, "the primary's is no overlay"},
		{"read-only", Options{Path: base, ReadOnly: true}, raw, 0, "is not read-only"},
		{"another base", Options{Path: other, Overlay: folder + "/o"}, over, 0, "it is not the image that the primary has"},
		{"another read-only disk", Options{Path: other}, fixed, 0, "it is not the image that the primary has"},
		{"file that is no overlay", Options{Path: base, Overlay: other}, over, 0, "not an overlay"},
		{"kind", Options{Path: base}, Form{Kind: "qcow2", Size: 8192}, 0, "does not know"},
		{"no size", Options{Path: base}, Form{Kind: Raw}, 0, "which no disk has"},
		{"odd size", Options{Path: base}, Form{Kind: Raw, Size: 1000}, 0, "which no disk has"},
		{"huge", Options{Path: base}, Form{Kind: Raw, Size: 1 << 61}, 0, "which no disk has"},
		{"fingerprint", Options{Path: base}, Form{Kind: ReadOnly, Size: 8192, Base: "00"}, 0, "fingerprint"},
		{"fingerprint that is none", Options{Path: base}, Form{Kind: ReadOnly, Size: 8192, Base: "xx"}, 0, "fingerprint"},
		{"small device", Options{Path: "/dev/null"}, device, 0, "neither a file nor a block device"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r, err := OpenReplicas([]Options{test.o}, []Form{test.f}, test.from)
			if err == nil {
				r.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q, want one line about %q", err, test.want)
			}
		})
	}
	if _, err := OpenReplicas(nil, []Form{raw}, 0); err == nil || !strings.Contains(err.Error(), "has 1 disks, and this host has been given 0") {
		t.Errorf("no disk: %v", err)
	}
	huge := []Form{{Kind: Raw, Size: maxDiskSize}, {Kind: Raw, Size: maxDiskSize}}
	if _, err := OpenReplicas(make([]Options, 2), huge, 0); err == nil || !strings.Contains(err.Error(), "more than there can be") {
		t.Errorf("too large together: %v", err)
	}
	// Nothing of these has harmed a file, and what was opened before an error is not locked any more.
	if content, err := os.ReadFile(other); err != nil || !bytes.Equal(content, make([]byte, 8192)) {
		t.Error("a file that was refused has changed")
	}
	o := []Options{{Path: filepath.Join(folder, "first")}, {Path: busy}}
	if _, err := OpenReplicas(o, []Form{raw, raw}, 0); err == nil {
		t.Fatal("opened")
	}
	replicas(t, &Row{forms: []Form{raw}}, 0, o[0])
}

// TestIncompleteReplicaIsNotADisk: a guest does not run on half a disk.
func TestIncompleteReplicaIsNotADisk(t *testing.T) {
	base := imageFile(t, "base", 1<<20)
	folder := t.TempDir()
	primary := Options{Path: base, Overlay: filepath.Join(folder, "primary's")}
	tests := []struct {
		name string
		f    Form
		o    Options
	}{
		{"raw", Form{Kind: Raw, Size: 1 << 20}, Options{Path: filepath.Join(folder, "raw")}},
		{"overlay", formOf(t, primary), Options{Path: base, Overlay: filepath.Join(folder, "overlay")}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			from := int64(0)
			for range 2 { // the second goes on
				r, err := OpenReplicas([]Options{test.o}, []Form{test.f}, from)
				if err != nil {
					t.Fatal(err)
				}
				part := append(appendPartHeader(nil, partData, 0, chunk), make([]byte, chunk)...)
				if err := r.Store(part); err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(r.Close(), r.Close()); err != nil {
					t.Fatal(err)
				}
				if err := unix.Setxattr(base, "user.test", nil, 0); err != nil {
					t.Skipf("no extended attributes here: %v", err)
				}
				if image, err := Open(test.o); err == nil || !strings.Contains(err.Error(), "not completed") {
					if err == nil {
						image.Close()
					}
					t.Fatalf("opened a part of a replica: %v", err)
				}
				from = chunk
			}
			r, err := OpenReplicas([]Options{test.o}, []Form{test.f}, from)
			if err != nil {
				t.Fatal(err)
			}
			images, err := r.Finish()
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(r.Close(), images[0].Close()); err != nil {
				t.Fatal(err)
			}
			open(t, test.o)
		})
	}
}

// TestResumeGoesOnFromWhatIsStored does not believe that a replica has more than it was given.
func TestResumeGoesOnFromWhatIsStored(t *testing.T) {
	if err := unix.Setxattr(imageFile(t, "any", 512), "user.test", nil, 0); err != nil {
		t.Skipf("no extended attributes here: %v", err)
	}
	folder := t.TempDir()
	forms := []Form{{Kind: Raw, Size: 2 * chunk}, {Kind: Raw, Size: 2 * chunk}}
	options := []Options{{Path: folder + "/1"}, {Path: folder + "/2"}}
	part := appendPartHeader(nil, partZeros, 0, 3*chunk)
	r := replicas(t, &Row{forms: forms}, 0, options...)
	if err := errors.Join(r.Store(part), r.Close()); err != nil {
		t.Fatal(err)
	}
	if err := r.Store(part); err == nil {
		t.Error("stored after the end")
	}
	if _, err := r.Finish(); err == nil {
		t.Error("finished after the end")
	}
	if _, err := OpenReplicas(options, forms, 3*chunk+1); !errors.Is(err, ErrNotKept) {
		t.Errorf("going on from what is not there: %v", err)
	}
	r = replicas(t, &Row{forms: forms}, 3*chunk, options...)
	if stored, total := r.Done(); stored != 3*chunk || total != 4*chunk {
		t.Errorf("%d of %d bytes", stored, total)
	}
	// What comes now can't be: these disks have no base.
	if err := r.Store(appendPartHeader(nil, partBased, 3*chunk, chunk)); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err == nil || !strings.Contains(err.Error(), "there is none") {
		t.Errorf("closing: %v", err)
	}
	if _, err := OpenReplicas(options, forms, 4*chunk); !errors.Is(err, ErrNotKept) {
		t.Errorf("going on after a failure: %v", err)
	}
	replicas(t, &Row{forms: forms}, 4*chunk+1, options...) // beyond the row is the start
}

// TestOverlayIsEmptied makes a replica in an overlay that had something else.
func TestOverlayIsEmptied(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	base := imageFile(t, "base", 1<<20)
	there := Options{Path: base, Overlay: filepath.Join(t.TempDir(), "old")}
	old, err := Open(there)
	if err != nil {
		t.Fatal(err)
	}
	write(t, old, 0, bytes.Repeat([]byte("old"), 100<<10))
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	r, disks := row(t, open(t, Options{Path: base, Overlay: filepath.Join(t.TempDir(), "overlay")}))
	want := all(t, disks[0])
	for range 20 {
		change(t, random, disks[0], want)
	}
	if got := finish(t, r.Begin(0), replicas(t, r, 0, there))[0]; !bytes.Equal(all(t, got), want) {
		t.Error("the replica differs")
	}
}

// TestReplicaOnADevice makes a replica in a block device that had something else.
func TestReplicaOnADevice(t *testing.T) {
	device := loopDevice(t, 2<<20)
	random := rand.New(rand.NewSource(1))
	r, disks := row(t, open(t, Options{Path: sparse(t, random, 1<<20)}))
	if _, err := OpenReplicas([]Options{{Path: device}}, []Form{{Kind: Raw, Size: 4 << 20}}, 0); err == nil || !strings.Contains(err.Error(), "name a larger one") {
		t.Errorf("a device that is too small: %v", err)
	}
	got := finish(t, r.Begin(0), replicas(t, r, 0, Options{Path: device}))[0]
	if got.Size() != 1<<20 || !bytes.Equal(all(t, got), all(t, disks[0])) {
		t.Error("the replica differs")
	}
	back, _ := row(t, got)
	file := Options{Path: filepath.Join(t.TempDir(), "back")}
	if got := finish(t, back.Begin(0), replicas(t, back, 0, file))[0]; !bytes.Equal(all(t, got), all(t, disks[0])) {
		t.Error("the replica of the device differs")
	}
}

// TestReplicaFaults makes the storage fail under a replica.
func TestReplicaFaults(t *testing.T) {
	data := append(appendPartHeader(nil, partData, 0, chunk), make([]byte, chunk)...)
	tests := []struct {
		name string
		op   blktest.Op
		err  error
		want string
	}{
		{"write", blktest.Write, unix.EIO, "writing the replica"},
		{"full", blktest.Write, unix.ENOSPC, "storage is full"},
		{"zeros", blktest.Zero, unix.EIO, "writing the replica"},
		{"sync", blktest.Sync, unix.EIO, "writing the replica"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := blktest.New(2 * chunk)
			d.Fail = func(op blktest.Op, _, _ int64) error {
				if op == test.op {
					return test.err
				}
				return nil
			}
			forms := []Form{{Kind: Raw, Size: 2 * chunk}}
			r := &Replicas{forms: forms, starts: []int64{0}, size: 2 * chunk, queue: make(chan []byte, 1)}
			r.add(d)
			r.written.Go(r.write)
			for _, p := range [][]byte{data, appendPartHeader(nil, partZeros, chunk, chunk)} {
				if err := r.Store(p); err != nil && !errors.Is(err, test.err) {
					t.Error(err)
				}
			}
			if _, err := r.Finish(); !errors.Is(err, test.err) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v", err)
			}
		})
	}
	r := replicas(t, &Row{forms: []Form{{Kind: Raw, Size: chunk}}}, 0, Options{Path: filepath.Join(t.TempDir(), "replica")})
	if err := r.Store(append(data, 0)); err == nil {
		t.Error("a part that is none was stored")
	}
	if err := r.Store(appendPartHeader(nil, partZeros, 1, chunk)); err == nil {
		t.Error("a part beyond the end was stored")
	}
}

// TestPartOverTwoDisks stores what begins in one disk and ends in another.
func TestPartOverTwoDisks(t *testing.T) {
	folder := t.TempDir()
	forms := []Form{{Kind: Raw, Size: 512}, {Kind: Raw, Size: 1024}, {Kind: Raw, Size: 512}}
	options := []Options{{Path: folder + "/1"}, {Path: folder + "/2"}, {Path: folder + "/3"}}
	r := replicas(t, &Row{forms: forms}, 0, options...)
	p := append(appendPartHeader(nil, partData, 0, 2048), bytes.Repeat([]byte("x"), 2048)...)
	if err := errors.Join(r.Store(p), r.Store(appendPartHeader(nil, partZeros, 256, 1536))); err != nil {
		t.Fatal(err)
	}
	images, err := r.Finish()
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	for _, i := range images {
		got = append(got, all(t, i)...)
		i.Close()
	}
	if want := append(append(bytes.Repeat([]byte("x"), 256), make([]byte, 1536)...), bytes.Repeat([]byte("x"), 256)...); !bytes.Equal(got, want) {
		t.Errorf("content %q", got)
	}
}

const replicaProcess = "TANDEM_TEST_REPLICA"

// TestMain is the process that TestKilledReplica kills, if it is asked to be.
func TestMain(m *testing.M) {
	if arguments := strings.Split(os.Getenv(replicaProcess), "\n"); len(arguments) == 3 {
		fmt.Println(storeReplica(arguments[0], arguments[1], arguments[2]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// storeReplica stores parts from its input, to a replica like model.
func storeReplica(base, path, model string) error {
	image, err := Open(Options{Path: base, Overlay: model})
	if err != nil {
		return err
	}
	form, err := FormOf(image)
	if err != nil {
		return err
	}
	r, err := OpenReplicas([]Options{{Path: base, Overlay: path}}, []Form{form}, 0)
	for err == nil {
		var n [4]byte
		if _, err = io.ReadFull(os.Stdin, n[:]); err != nil {
			break
		}
		p := make([]byte, binary.LittleEndian.Uint32(n[:]))
		if _, err = io.ReadFull(os.Stdin, p); err == nil {
			err = r.Store(p)
		}
	}
	return err
}

// TestKilledReplica kills a host while it stores a replica, and makes the replica again in the same file.
func TestKilledReplica(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	base, folder := sparse(t, random, 4<<20), t.TempDir()
	r, disks := row(t, open(t, Options{Path: base, Overlay: filepath.Join(folder, "overlay")}))
	want := all(t, disks[0])
	for range 300 {
		change(t, random, disks[0], want)
	}
	there := Options{Path: base, Overlay: filepath.Join(folder, "replica")}
	for kill := range 3 {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), replicaProcess+"="+base+"\n"+there.Overlay+"\n"+filepath.Join(folder, "model"))
		in, err := c.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		c.Stdout = &out
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		transfer := r.Begin(0)
		for range kill * 20 {
			p, err := transfer.Next(nil)
			if err != nil {
				t.Fatal(err)
			}
			if p == nil {
				t.Fatal("too little is sent for this test")
			}
			if _, err := in.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(p))), p...)); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		var exit *exec.ExitError
		if err := c.Wait(); !errors.As(err, &exit) || !exit.Sys().(syscall.WaitStatus).Signaled() {
			t.Fatalf("the process ended by itself: %v %s", err, out.Bytes())
		}
	}
	if got := finish(t, r.Begin(0), replicas(t, r, 0, there))[0]; !bytes.Equal(all(t, got), want) {
		t.Error("the replica differs")
	}
}
