package protect

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"tandem/lockstep/pair"
	"tandem/vmm/blk"
)

// diskBytes is the size of the disks of the tests.
const diskBytes = 8 << 20

// rawDisks gives the guest a disk, which the other host has not.
func (p *pairOfHosts) rawDisks(t *testing.T) {
	t.Helper()
	folder := t.TempDir()
	for i, name := range []string{"disk", "replica"} {
		p.disks[i].Path = filepath.Join(folder, name)
	}
	if err := os.WriteFile(p.disks[0].Path, filling(diskBytes), 0o600); err != nil {
		t.Fatal(err)
	}
}

// overlays gives the guest a disk that is an overlay, of which the other host has the base.
func (p *pairOfHosts) overlays(t *testing.T) {
	t.Helper()
	folder := t.TempDir()
	base := filepath.Join(folder, "base")
	if err := errors.Join(os.WriteFile(base, nil, 0o600), os.Truncate(base, 2*diskBytes)); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"disk", "replica"} {
		p.disks[i] = blk.Options{Path: base, Overlay: filepath.Join(folder, name)}
	}
	p.write(t, 0, filling(diskBytes), diskBytes/2)
}

// write writes to a host's disk, which is not in use.
func (p *pairOfHosts) write(t *testing.T, host int, content []byte, at int64) {
	t.Helper()
	image, err := blk.Open(p.disks[host])
	if err != nil {
		t.Fatal(err)
	}
	_, err = image.WriteAt(content, at)
	if err := errors.Join(err, image.Close()); err != nil {
		t.Fatal(err)
	}
}

// content reads a host's disk, which is not in use.
func (p *pairOfHosts) content(t *testing.T, host int) []byte {
	t.Helper()
	image, err := blk.Open(p.disks[host])
	if err != nil {
		t.Fatal(err)
	}
	all := make([]byte, image.Size())
	_, err = image.ReadAt(all, 0)
	if err := errors.Join(err, image.Close()); err != nil {
		t.Fatal(err)
	}
	return all
}

// mustHave checks that both hosts' disks, which are not in use, have a content.
func (p *pairOfHosts) mustHave(t *testing.T, content []byte) {
	t.Helper()
	for host := range p.disks {
		if !bytes.Equal(p.content(t, host), content) {
			t.Errorf("the disk of host %d has another content", host)
		}
	}
}

// A host that crashed and comes back, with the replica that it had, gets what differs alone; and so does the host of a guest that went
// on elsewhere, with its disk.
func TestHostThatComesBackGetsTheDifference(t *testing.T) {
	for name, disks := range map[string]func(*pairOfHosts, *testing.T){"raw": (*pairOfHosts).rawDisks, "overlay": (*pairOfHosts).overlays} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, pair.RuleReceived)
			disks(p, t)
			content := p.content(t, 0)
			guest, backup := p.protect(t, "uart-echo")
			backup.kill()
			guest.errs.text(t, "state primary alone term 2")
			p.write(t, 1, []byte("another way"), 5<<20) // as if the replica had been in use
			backup = p.start(t, 1, "", guest.listen)
			backup.errs.text(t, "state backup protected")
			if sent, all := delta(t, guest, "the backup was brought up to date", 1); all < 8 || sent > 1 {
				t.Errorf("%.1f MiB of %.1f MiB were sent to a host with an old replica", sent, all)
			}
			guest.kill()
			backup.errs.text(t, "state primary alone")
			p.write(t, 0, []byte("another way"), 6<<20)
			back := p.start(t, 0, "", backup.listen)
			back.errs.text(t, "state backup protected")
			if sent, all := delta(t, backup, "the backup was brought up to date", 1); all < 8 || sent > 1 {
				t.Errorf("%.1f MiB of %.1f MiB were sent to the host that had the guest", sent, all)
			}
			backup.typed(t, "abc")
			backup.out.text(t, "ABC")
			backup.typed(t, "\x04")
			backup.errs.text(t, "ended: the guest powered off")
			back.errs.text(t, "ended: the guest powered off")
			p.mustHave(t, content)
		})
	}
}

// What lies where a replica is to be made and is somebody's file is left alone.
func TestForeignFileIsLeftAlone(t *testing.T) {
	for name, disks := range map[string]func(*pairOfHosts, *testing.T){"raw": (*pairOfHosts).rawDisks, "overlay": (*pairOfHosts).overlays} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, pair.RuleReceived)
			disks(p, t)
			path := p.disks[1].Path
			if p.disks[1].Overlay != "" {
				path = p.disks[1].Overlay
			}
			mine := filling(100 << 10)
			if err := os.WriteFile(path, mine, 0o600); err != nil {
				t.Fatal(err)
			}
			backup := p.start(t, 1, "")
			guest := p.start(t, 0, "uart-echo", backup.listen)
			backup.errs.text(t, "this host can't be the backup")
			guest.errs.text(t, "the peer refused this host")
			guest.typed(t, "abc")
			guest.out.text(t, "ABC")
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, mine) {
				t.Errorf("the file was changed, %v", err)
			}
		})
	}
}
