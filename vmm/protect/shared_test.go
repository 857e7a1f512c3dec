package protect

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tandem/devices/virtio"
	"tandem/lockstep/pair"
	"tandem/vmm/blk"
)

// sharedBytes is the size of the tests' shared disk.
const sharedBytes = 8 << 20

// patience is how long hosts bear with each other's silence in tests that kill them, which they notice by their connection's end: a
// busy machine must not part them before.
const patience = 10 * time.Second

// share gives the pair a disk that both hosts reach, each by a name of its own, and returns where it is.
func (p *pairOfHosts) share(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	path := filepath.Join(folder, "image")
	if err := os.WriteFile(path, make([]byte, sharedBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	there := filepath.Join(t.TempDir(), "mounted")
	if err := os.Symlink(folder, there); err != nil {
		t.Fatal(err)
	}
	p.disks = [2]blk.Options{{Path: path, Shared: true}, {Path: filepath.Join(there, "image"), Shared: true}}
	return path
}

// journal is what the guest disk-journal has written: letter number n is letters[n-1], up to the last whole one.
type journal struct {
	letters string
	super   uint64 // what sector 0 is filled with
	// torn is the number of letters behind those of which a part is there.
	torn int
}

// readJournal reads a disk, whatever is at work on it.
func readJournal(t *testing.T, path string) journal {
	t.Helper()
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	filled := func(sector int) (v uint64, whole bool) {
		p := image[sector*virtio.SectorSize:][:virtio.SectorSize]
		v = binary.LittleEndian.Uint64(p)
		return v, bytes.Equal(p, bytes.Repeat(p[:8], virtio.SectorSize/8))
	}
	var j journal
	j.super, _ = filled(0)
	for n := 1; n < sharedBytes/virtio.SectorSize/8; n++ {
		all, any := true, false
		first, _ := filled(8 * n)
		for i := range 5 {
			v, whole := filled(8*n + i)
			if v != 0 && v>>8 != uint64(n) {
				t.Fatalf("sector %d is filled with %#x", 8*n+i, v)
			}
			any = any || v != 0
			all = all && v != 0 && v == first && whole
		}
		switch {
		case all && j.torn == 0:
			j.letters += string(rune(byte(first)))
		case any:
			j.torn++
		}
	}
	return j
}

// check compares a disk at rest with what the guest has said.
func (j journal) check(t *testing.T, when, letters string) {
	t.Helper()
	if j.letters != letters || j.torn != 0 {
		t.Errorf("%s: the disk has %q and parts of %d letters more, the guest says %q", when, j.letters, j.torn, letters)
	}
	last := uint64(0)
	if n := len(letters); n > 0 {
		last = uint64(n)<<8 | uint64(letters[n-1])
	}
	if j.super != last {
		t.Errorf("%s: sector 0 is filled with %#x, not %#x", when, j.super, last)
	}
}

// A guest writes to a shared disk while its host is killed, again and again, at seeded instants. What it has said to be written
// is there, whoever has it now, and nothing is there that the guest that goes on has not written.
func TestSharedDiskOutlivesItsHosts(t *testing.T) {
	for name, rule := range map[string]pair.Rule{"received": pair.RuleReceived, "verified": pair.RuleVerified} {
		t.Run(name, func(t *testing.T) {
			const alphabet = "abcdefghijklmnopqrstuvwxyz"
			random := rand.New(rand.NewPCG(uint64(rule), 17))
			p := newPair(t, rule)
			p.detect = patience
			disk := p.share(t)
			backup := p.start(t, 1, "")
			guest := p.start(t, 0, "disk-journal", backup.listen)
			guest.out.text(t, "ready\n")
			written := "" // by all hosts
			for life := range 8 {
				backup.errs.text(t, "state backup protected")
				guest.errs.text(t, "state primary protected")
				from := len(guest.out.String())
				guest.typed(t, alphabet)
				guest.out.text(t, strings.ToUpper(alphabet[:1+random.IntN(20)]))
				guest.kill()
				seen := strings.ToLower(guest.out.String()[from:])
				left := readJournal(t, disk)
				if done := written + seen; !strings.HasPrefix(left.letters, done) {
					t.Fatalf("life %d: the guest has said that %q is written, the disk has %q", life, done, left.letters)
				}
				backup.errs.text(t, "state primary alone")
				backup.typed(t, "{")
				backup.out.text(t, "[") // "{" as a capital
				written += alphabet[:26]
				now := readJournal(t, disk)
				n := strings.IndexByte(now.letters[len(written)-26:], '{')
				if n < 0 {
					t.Fatalf("life %d: the disk has %q", life, now.letters)
				}
				written = written[:len(written)-26+n] + "{"
				now.check(t, fmt.Sprintf("life %d", life), written)
				if !strings.HasPrefix(written, left.letters) {
					t.Errorf("life %d: the host that died has written %q, the guest that goes on %q", life, left.letters, written)
				}
				guest = backup
				backup = p.start(t, life%2, "", guest.listen)
			}
		})
	}
}

// A backup gets the guest's state while requests are under way, and takes over soon after: those are done, once more perhaps.
func TestSharedDiskIsCutUnderLoad(t *testing.T) {
	const alphabet = "abcdefghijklmnopqrstuvwxyz"
	random := rand.New(rand.NewPCG(5, 20))
	typed := strings.Repeat(alphabet, 10)
	for range 3 {
		p := newPair(t, pair.RuleReceived)
		p.detect = patience
		disk := p.share(t)
		guest := p.start(t, 0, "disk-journal")
		guest.out.text(t, "ready\n")
		guest.typed(t, typed)
		guest.out.text(t, "A")
		backup := p.start(t, 1, "", guest.listen)
		backup.errs.text(t, "state backup protected")
		said := len(guest.out.String()) + random.IntN(6)
		guest.out.await(t, "more", func(all string) bool { return len(all) >= said })
		guest.kill()
		seen := len(guest.out.String()) - len("ready\n")
		backup.errs.text(t, "state primary alone")
		backup.typed(t, "{\x04")
		backup.errs.text(t, "ended: the guest powered off")
		now := readJournal(t, disk)
		n := strings.IndexByte(now.letters, '{')
		if n < seen {
			t.Fatalf("the guest has said that %d letters are written, the disk has %q", seen, now.letters)
		}
		now.check(t, "at the end", typed[:n]+"{")
	}
}

// What the backup has not acknowledged is not on a shared disk, and the guest goes on without it if its host dies then.
func TestSharedDiskWaitsForTheBackup(t *testing.T) {
	for name, rule := range map[string]pair.Rule{"received": pair.RuleReceived, "verified": pair.RuleVerified} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, rule)
			p.detect = deadline * 2 // a backup that stands still is not lost
			disk := p.share(t)
			guest, backup := p.protect(t, "disk-journal")
			guest.errs.text(t, "state primary protected")
			guest.typed(t, "a")
			guest.out.text(t, "A")
			if err := backup.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			guest.typed(t, "b")
			guest.errs.text(t, "held 8\n")
			readJournal(t, disk).check(t, "what the backup may not have is held", "a")
			guest.kill()
			readJournal(t, disk).check(t, "the guest's host is dead", "a")
			if err := backup.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			backup.errs.text(t, "state primary alone")
			backup.typed(t, "{\x04")
			backup.errs.text(t, "ended: the guest powered off")
			now := readJournal(t, disk)
			if now.letters != "a{" { // what was on its way to the backup when it stood still has come
				now.check(t, "at the end", "ab{")
			}
		})
	}
}

// A host that stood still while the other took over writes nothing when it goes on.
func TestFrozenHostLeavesSharedDisk(t *testing.T) {
	const alphabet = "abcdefghijklmnopqrstuvwxyz"
	random := rand.New(rand.NewPCG(3, 18))
	for range 3 {
		p := newPair(t, pair.RuleReceived)
		disk := p.share(t)
		guest, backup := p.protect(t, "disk-journal")
		guest.typed(t, alphabet)
		n := 1 + random.IntN(10)
		guest.out.text(t, strings.ToUpper(alphabet[:n]))
		if err := guest.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		backup.errs.text(t, "state primary alone term 2")
		backup.typed(t, "{")
		backup.out.text(t, "[")
		before := readJournal(t, disk)
		before.check(t, "the guest went on", before.letters)
		if err := guest.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		guest.errs.text(t, "fenced: another host has the guest")
		guest.errs.text(t, "state backup protected term 2")
		readJournal(t, disk).check(t, "the frozen host is back", before.letters)
		backup.kill()
		guest.errs.text(t, "state primary alone term 3")
		guest.typed(t, "x\x04")
		guest.errs.text(t, "ended: the guest powered off")
		now := readJournal(t, disk)
		rest := strings.TrimSuffix(strings.TrimPrefix(now.letters, before.letters), "x") // what it had not read when it froze
		if !strings.HasSuffix(alphabet, rest) {
			t.Errorf("at the end the disk has %q", now.letters)
		}
		now.check(t, "at the end", before.letters+rest+"x")
	}
}

// A primary that is told to leave while its guest writes hands the disk over with the guest.
func TestSharedDiskIsHandedOver(t *testing.T) {
	const alphabet = "abcdefghijklmnopqrstuvwxyz"
	random := rand.New(rand.NewPCG(4, 19))
	p := newPair(t, pair.RuleReceived)
	p.detect = patience
	disk := p.share(t)
	backup := p.start(t, 1, "")
	guest := p.start(t, 0, "disk-journal", backup.listen)
	written := ""
	for life := range 4 {
		backup.errs.text(t, "state backup protected")
		guest.errs.text(t, "state primary protected")
		guest.typed(t, alphabet)
		guest.out.text(t, strings.ToUpper(alphabet[:1+random.IntN(10)]))
		if err := guest.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		guest.errs.text(t, "ended: stopped by the VMM")
		backup.errs.text(t, "state primary alone")
		backup.typed(t, "{")
		backup.out.text(t, "[")
		now := readJournal(t, disk)
		n := strings.IndexByte(now.letters[len(written):], '{')
		if n < 0 || !strings.HasPrefix(alphabet, now.letters[len(written):][:n]) {
			t.Fatalf("life %d: the disk has %q", life, now.letters)
		}
		written += alphabet[:n] + "{"
		now.check(t, fmt.Sprintf("life %d", life), written)
		guest = backup
		backup = p.start(t, life%2, "", guest.listen)
	}
}

// A backup that has been given another file, or a replica, is refused by name.
func TestSharedDiskIsTheSame(t *testing.T) {
	other := func(t *testing.T) string {
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, make([]byte, sharedBytes), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct {
		change func(t *testing.T, p *pairOfHosts)
		says   string
	}{
		"another file":          {func(t *testing.T, p *pairOfHosts) { p.disks[1].Path = other(t) }, "it is not the file that the primary has"},
		"a replica":             {func(t *testing.T, p *pairOfHosts) { p.disks[1] = blk.Options{Path: other(t)} }, "one that both hosts share; add shared"},
		"the primary's its own": {func(t *testing.T, p *pairOfHosts) { p.disks[0].Shared = false }, "the primary's is its own; leave shared out"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, pair.RuleReceived)
			p.share(t)
			c.change(t, p)
			backup := p.start(t, 1, "")
			guest := p.start(t, 0, "disk-journal", backup.listen)
			backup.errs.text(t, c.says)
			guest.typed(t, "a\x04")
			guest.errs.text(t, "ended: the guest powered off")
		})
	}
}
