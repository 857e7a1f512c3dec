package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"tandem/cmd/internal/labrun"
)

// testStalledDisk freezes the file system under a guest's disk while it writes, and thaws it again.
func testStalledDisk(ctx context.Context, t *testing.T, e *labrun.Engine) {
	if e.Native {
		t.Skip("mounts and freezes a file system of the host's: only in the lab")
	}
	device, mounted := e.Path("stall"), e.Path("stalled")
	host(ctx, t, e, fmt.Sprintf("modprobe loop; modprobe ext4; truncate -s 16M %s && mke2fs -F %[1]s && mkdir %s && mount -t ext4 -o loop %[1]s %[2]s && truncate -s %d %[2]s/disk",
		device, mounted, diskBytes))
	guest := deviceGuest(ctx, t, e, "--disk", mounted+"/disk")
	host(ctx, t, e, "fsfreeze --freeze "+mounted)
	thawed := false
	t.Cleanup(func() {
		if !thawed {
			host(context.WithoutCancel(ctx), t, e, "fsfreeze --unfreeze "+mounted)
		}
	})
	enter(t, guest, fmt.Sprintf("diskcheck write /dev/vda %d %d &\n", diskSeed, diskWrites))
	host(ctx, t, e, fmt.Sprintf("until grep -q '^State:.D' /proc/%d/task/*/status; do usleep 20000; done", guest.PID()))
	// The disk stands still, and nothing else.
	enter(t, guest, "echo alive $((20 + 3))\n")
	await(ctx, t, guest.Out, "alive 23")
	if strings.Contains(guest.Out.String(), "wrote /dev/vda") {
		t.Error("the guest's writes are done while their storage is frozen")
	}
	host(ctx, t, e, "fsfreeze --unfreeze "+mounted)
	thawed = true
	await(ctx, t, guest.Out, "wrote /dev/vda, 0 of")
	check(ctx, t, guest, "verify", "vda", "/dev/vda is right in all")
	enter(t, guest, "poweroff -f\n")
	wantEnd(t, guest, statusOK)
	host(ctx, t, e, "umount "+mounted+" && rm "+device)
}

// Where the kernel's scsi_debug has an unreadable sector if it is told so: sector 0x1234 of 512 bytes.
const badBlock = 0x1234 * 512 / 4096

// testFailingDisk gives a guest a disk of the host's that gets a sector which can't be read, and is then gone.
func testFailingDisk(ctx context.Context, t *testing.T, e *labrun.Engine) {
	if e.Native {
		t.Skip("loads a module into the host's kernel: only in the lab")
	}
	const settings = "/sys/bus/pseudo/drivers/scsi_debug"
	loadModules(ctx, t, e, "sd_mod", "scsi_debug dev_size_mb=3 delay=0")
	name := strings.TrimSpace(host(ctx, t, e, "until ls -d "+settings+"/adapter0/host*/target*/*/block/sd* 2>/dev/null; do usleep 20000; done"))
	name = name[strings.LastIndexByte(name, '/')+1:]
	host(ctx, t, e, "until [ -b /dev/"+name+" ]; do usleep 20000; done")

	guest := deviceGuest(ctx, t, e, "--disk", "/dev/"+name)
	check(ctx, t, guest, "write", "vda", "wrote /dev/vda, 0 of")
	host(ctx, t, e, "sync; echo 3 >/proc/sys/vm/drop_caches; echo 2 >"+settings+"/opts")
	check(ctx, t, guest, "verify", "vda", fmt.Sprintf("FAILED: block %d can't be read", badBlock), "input/output error")
	await(ctx, t, guest.Err, "input/output error")
	host(ctx, t, e, "echo 0 >"+settings+"/opts")
	check(ctx, t, guest, "verify", "vda", "/dev/vda is right in all")

	host(ctx, t, e, "echo offline >/sys/block/"+name+"/device/state")
	check(ctx, t, guest, "write", "vda", "FAILED: sync", "input/output error")
	// What was written is lost, and no later flush may claim that it is not.
	host(ctx, t, e, "echo running >/sys/block/"+name+"/device/state")
	check(ctx, t, guest, "write", "vda", "FAILED: sync", "input/output error")
	enter(t, guest, "echo still here $((2 + 2)); poweroff -f\n")
	await(ctx, t, guest.Out, "still here 4")
	wantEnd(t, guest, statusFailure)
	await(ctx, t, guest.Err, "an earlier sync failed")
}

// loadModules loads modules of the lab's kernel, each with its parameters behind its name, and what they need.
func loadModules(ctx context.Context, t *testing.T, e *labrun.Engine, wanted ...string) {
	t.Helper()
	index, err := e.Artifacts.Modules()
	if err != nil {
		t.Fatal(err)
	}
	parameters := map[string]string{}
	var names []string
	for _, w := range wanted {
		name, rest, _ := strings.Cut(w, " ")
		names, parameters[name] = append(names, name), rest
	}
	modules, err := index.Closure(names...)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range modules {
		path := e.Path(m.Name + ".ko")
		if err := e.Put(ctx, path, 0o644, bytes.NewReader(m.Data)); err != nil {
			t.Fatal(err)
		}
		host(ctx, t, e, fmt.Sprintf("grep -q '^%s ' /proc/modules || insmod %s %s", m.Name, path, parameters[m.Name]))
	}
}
