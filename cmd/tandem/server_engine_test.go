package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"tandem/cmd/internal/lab"
	"tandem/cmd/internal/labrun"
	"tandem/cmd/internal/rootfs"
)

// devicesTimeout bounds all tests of devices together, on a busy machine.
const devicesTimeout = 12 * time.Minute

// TestLabDevices runs guests with disks and networks, all on one host.
func TestLabDevices(t *testing.T) {
	if testing.Short() {
		t.Skip("runs Linux, maybe on an emulated host: not with -short")
	}
	ctx, cancel := context.WithTimeout(t.Context(), devicesTimeout)
	t.Cleanup(cancel)
	image, initrd, kernel := serverImage(ctx, t)
	e, err := labrun.Open(ctx, labrun.Config{
		Images: []string{image}, Log: os.Stderr,
		Files: map[string]string{"root-initrd": initrd, "root-vmlinuz": kernel, "devices-initrd": deviceInitrd(ctx, t)},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("servers", func(t *testing.T) { testServers(ctx, t, e) })
	t.Run("disks", func(t *testing.T) { testDisks(ctx, t, e) })
	t.Run("stalled disk", func(t *testing.T) { testStalledDisk(ctx, t, e) })
	t.Run("failing disk", func(t *testing.T) { testFailingDisk(ctx, t, e) })
	t.Run("tap", func(t *testing.T) { testTap(ctx, t, e) })
	t.Run("virtio console", func(t *testing.T) { testVirtioConsole(ctx, t, e) })
}

// serverImage returns the root image with redis and dovecot, its initramfs and kernel. They are built once for each
// state of the builder's source and kept in the cache.
func serverImage(ctx context.Context, t *testing.T) (image, initrd, kernel string) {
	t.Helper()
	cache, err := cacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "image", "servers-"+sourceDigest(t, filepath.Join("..", "internal", "rootfs")))
	image, initrd, kernel = filepath.Join(dir, "root.ext4"), filepath.Join(dir, "initrd"), filepath.Join(dir, "vmlinuz")
	if _, err := os.Stat(image); err == nil {
		return image, initrd, kernel
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err = rootfs.Build(ctx, rootfs.Options{
		Image: image, Initrd: initrd, Kernel: kernel, SizeBytes: 512 << 20, Packages: []string{"redis-server", "dovecot-imapd"},
		Hostname: "tandem", CacheDir: filepath.Join(cache, "image"), Progress: newProgress(os.Stderr),
	})
	if err != nil {
		t.Fatal(err)
	}
	return image, initrd, kernel
}

// sourceDigest is over all files of a folder.
func sourceDigest(t *testing.T, dir string) string {
	t.Helper()
	hash := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		fmt.Fprintf(hash, "%q %d\n", path, len(content))
		hash.Write(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", hash.Sum(nil)[:8])
}

// deviceInit loads the drivers and hands the console to a shell: the virtio console if there is one.
const deviceInit = `#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for m in virtio_pci virtio_blk virtio_net virtio_rng virtio_console; do modprobe $m; done
export PS1="` + labrun.Prompt + `"
[ -e /dev/hvc0 ] && exec setsid -c sh </dev/hvc0 >/dev/hvc0 2>&1
exec setsid cttyhack sh
`

// deviceInitrd makes the root of a guest that has virtio's drivers and the checker of disks.
func deviceInitrd(ctx context.Context, t *testing.T) string {
	t.Helper()
	a, err := lab.Setup(ctx, lab.SetupOptions{Log: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	checker, err := lab.BuildStatic(ctx, "tandem/cmd/internal/diskcheck/guest", "diskcheck")
	if err != nil {
		t.Fatal(err)
	}
	root, err := lab.GuestInitramfs(ctx, a, lab.GuestConfig{
		Init: deviceInit, Modules: []string{"virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "virtio_console"},
		Files: map[string]string{"bin/diskcheck": checker},
	})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := root.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "initrd")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// host runs a shell script where the guests run, which must succeed, and returns what it prints.
func host(ctx context.Context, t *testing.T, e *labrun.Engine, script string) string {
	t.Helper()
	s := start(ctx, t, e, labrun.Options{}, "sh", "-c", script)
	wantEnd(t, s, 0)
	return s.Out.String()
}

// deviceGuest boots the guest of deviceInitrd to its prompt.
func deviceGuest(ctx context.Context, t *testing.T, e *labrun.Engine, flags ...string) *labrun.Session {
	t.Helper()
	args := append([]string{e.Tandem(), "run", "-k", e.Kernel(), "-i", e.Path("devices-initrd"), "-m", labrun.GuestMemory,
		"-c", "quiet io_delay=none"}, flags...)
	s := start(ctx, t, e, labrun.Options{}, args...)
	await(ctx, t, s.Out, labrun.Prompt)
	return s
}
