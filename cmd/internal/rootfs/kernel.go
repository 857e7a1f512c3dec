package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"tandem/boot/initramfs"
	"tandem/cmd/internal/lab/debian"
	"tandem/cmd/internal/lab/image"
)

// kernel is an unpacked kernel package.
type kernel struct {
	release string
	image   string // the bzImage
	modules string // .../lib/modules/<release>
}

// unpackKernel unpacks a kernel package into the empty directory dir.
func unpackKernel(ctx context.Context, deb, dir string) (*kernel, error) {
	if err := debian.Extract(ctx, dir, []string{deb}); err != nil {
		return nil, err
	}
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil {
		return nil, err
	}
	if len(images) != 1 {
		return nil, fmt.Errorf("package %s has %d kernels, not one", filepath.Base(deb), len(images))
	}
	k := &kernel{image: images[0], release: strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")}
	for _, lib := range []string{"lib", "usr/lib"} {
		k.modules = filepath.Join(dir, lib, "modules", k.release)
		if _, err := os.Stat(k.modules); err == nil {
			return k, nil
		}
	}
	return nil, fmt.Errorf("package %s has no modules", filepath.Base(deb))
}

// requiredModules are what a root on a virtio disk and a virtio network need.
var requiredModules = []string{"virtio_pci", "virtio_blk", "ext4", "virtio_net"}

// optionalModules are loaded where a kernel has them. crc32c_generic comes first: ext4 asks for it by the name of the
// algorithm, which no dependency of the module shows, and newer kernels have it built in. af_packet is for DHCP.
var optionalModules = []string{"crc32c_generic", "virtio_mmio", "virtio_rng", "virtio_console", "virtio_balloon", "af_packet"}

// modulesFor lists the modules to load, each after those that it depends on.
func modulesFor(index *image.Modules) ([]image.Module, error) {
	var names []string
	for _, n := range optionalModules {
		if index.Has(n) {
			names = append(names, n)
		}
	}
	return index.Closure(append(names, requiredModules...)...)
}

// initApplets are the tools of files/init.
var initApplets = []string{"cat", "echo", "findfs", "insmod", "mount", "poweroff", "sh", "sleep", "switch_root", "umount"}

// initrdEntries composes the initramfs: busybox, the modules with their order, and the script that uses them.
func initrdEntries(busybox []byte, mods []image.Module) ([]initramfs.Entry, error) {
	if len(busybox) == 0 {
		return nil, errors.New("busybox is empty")
	}
	entries := []initramfs.Entry{
		{Path: "init", Kind: initramfs.File, Perm: 0o755, Data: []byte(builtin("init"))},
		{Path: "bin/busybox", Kind: initramfs.File, Perm: 0o755, Data: busybox},
		{Path: "dev/console", Kind: initramfs.CharDevice, Perm: 0o600, Major: 5, Minor: 1},
	}
	for _, dir := range []string{"proc", "sys", "root"} {
		entries = append(entries, initramfs.Entry{Path: dir, Kind: initramfs.Directory, Perm: 0o755})
	}
	for _, applet := range initApplets {
		entries = append(entries, initramfs.Entry{Path: "bin/" + applet, Kind: initramfs.Symlink, Target: "busybox"})
	}
	var order strings.Builder
	for _, m := range mods {
		name := m.Name + ".ko"
		order.WriteString(name + "\n")
		entries = append(entries, initramfs.Entry{Path: "modules/" + name, Kind: initramfs.File, Perm: 0o644, Data: m.Data})
	}
	return append(entries, initramfs.Entry{Path: "modules/order", Kind: initramfs.File, Perm: 0o644, Data: []byte(order.String())}), nil
}
