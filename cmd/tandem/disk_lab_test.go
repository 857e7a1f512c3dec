package main

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"tandem/cmd/internal/diskcheck"
	"tandem/cmd/internal/labrun"
)

// What testDisks writes.
const (
	diskBytes  = 2 << 20
	diskSeed   = 42
	diskWrites = 100
)

// testDisks writes disks at random in a guest, and looks in the next guest and in the image whether each byte is there. The
// disks are an image, an overlay, and an image on storage that becomes full.
func testDisks(ctx context.Context, t *testing.T, e *labrun.Engine) {
	raw, base, over, small := e.Path("raw"), e.Path("base"), e.Path("over"), e.Path("small")
	host(ctx, t, e, fmt.Sprintf("truncate -s %d %s %s && mkdir %s && mount -t tmpfs -o size=512k tmpfs %s && truncate -s %[1]d %[4]s/full",
		diskBytes, raw, base, small, small))
	t.Cleanup(func() { host(context.WithoutCancel(ctx), t, e, "umount "+small) })
	flags := []string{"--disk", raw + ",discard", "--disk", base + ",overlay=" + over, "--disk", small + "/full"}

	guest := deviceGuest(ctx, t, e, flags...)
	for _, device := range []string{"vda", "vdb"} {
		check(ctx, t, guest, "write", device, fmt.Sprintf("wrote /dev/%s, 0 of %d blocks uncertain", device, diskBytes/diskcheck.BlockBytes))
	}
	// The guest sees errors, reads back what it was told is written, and goes on.
	check(ctx, t, guest, "write", "vdc", "writes failed, the last with", "input/output error", "wrote /dev/vdc, ")
	await(ctx, t, guest.Err, "the host's storage is full")
	enter(t, guest, "poweroff -f\n")
	wantEnd(t, guest, statusOK)

	guest = deviceGuest(ctx, t, e, flags...)
	check(ctx, t, guest, "verify", "vda", "/dev/vda is right in all")
	check(ctx, t, guest, "verify", "vdb", "/dev/vdb is right in all")
	check(ctx, t, guest, "verify-uncertain", "vdc", "/dev/vdc is right in all")
	enter(t, guest, "poweroff -f\n")
	wantEnd(t, guest, statusOK)

	var image bytes.Buffer
	if _, err := e.Get(ctx, raw, &image); err != nil {
		t.Fatal(err)
	}
	plan := diskcheck.Plan{Seed: diskSeed, Writes: diskWrites, Blocks: diskBytes / diskcheck.BlockBytes}
	if err := plan.Verify(bytes.NewReader(image.Bytes()), make([]byte, diskcheck.BlockBytes), func(int64) bool { return false }); err != nil {
		t.Errorf("the image, seen from the host: %v", err)
	}
	if got := host(ctx, t, e, "tr -d '\\0' <"+base+" | wc -c"); got != "0\n" {
		t.Errorf("the overlay's base was written: %q bytes of it are not zero", got)
	}
}

// check runs the checker of disks in the guest and waits for what it says.
func check(ctx context.Context, t *testing.T, guest *labrun.Session, what, device string, says ...string) {
	t.Helper()
	enter(t, guest, fmt.Sprintf("diskcheck %s /dev/%s %d %d\n", what, device, diskSeed, diskWrites))
	await(ctx, t, guest.Out, says...)
}
