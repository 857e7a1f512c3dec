package lab

import (
	"context"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"tandem/cmd/internal/lab/agent"
	"tandem/cmd/internal/lab/image"
)

// bootModules are loaded when a host starts.
var bootModules = []string{"virtio_pci", "virtio_console", "virtio_net", "virtio_blk", "kvm_amd", "fuse"}

// spareModules are there for modprobe and for the kernel to load when they are
// first needed. Kernels that lack one do without.
var spareModules = []string{
	"tun", "bridge", "veth", "macvtap", "overlay", "loop", "ext4", "virtiofs",
	"vsock", "vmw_vsock_virtio_transport", "vhost_vsock", "vhost_net", "virtio_rng", "virtio_balloon", "af_packet",
	"nf_tables", "nft_chain_nat", "nft_masq", "nf_nat", "nf_conntrack", "configs",
}

// writeImage writes a host's initramfs. It is made anew for each host: that
// takes a fraction of a second, and what it holds changes with every build.
func (l *Lab) writeImage(ctx context.Context, path string, hc HostConfig) error {
	im, err := l.hostImage(ctx, hc)
	if err != nil {
		return fmt.Errorf("building the image: %w", err)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = im.WriteTo(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("building the image: %w", err)
	}
	return nil
}

func (l *Lab) hostImage(ctx context.Context, hc HostConfig) (*image.Initramfs, error) {
	im := &image.Initramfs{}
	if err := im.AddBusybox(ctx, l.artifacts.Busybox); err != nil {
		return nil, err
	}
	if err := addHostModules(im, l.artifacts); err != nil {
		return nil, err
	}
	im.AddFile("etc/hosts", 0o644, []byte(l.hostsFile()))
	if err := im.AddSource("init", l.cfg.Agent); err != nil {
		return nil, err
	}
	for _, files := range []map[string]string{l.cfg.Files, hc.Files} {
		for dst, src := range files {
			if err := im.AddSource(dst, src); err != nil {
				return nil, err
			}
		}
	}
	return im, nil
}

// addHostModules adds the modules and the list of those to load at start.
func addHostModules(im *image.Initramfs, a *Artifacts) error {
	index, err := a.Modules()
	if err != nil {
		return err
	}
	boot, err := index.Closure(bootModules...)
	if err != nil {
		return err
	}
	names := append([]string{}, bootModules...)
	for _, n := range spareModules {
		if index.Has(n) {
			names = append(names, n)
		}
	}
	all, err := index.Closure(names...)
	if err != nil {
		return err
	}
	im.AddModules(index.Release, all)
	var list strings.Builder
	for _, m := range boot {
		fmt.Fprintf(&list, "/lib/modules/%s/%s\n", index.Release, m.Path)
	}
	im.AddFile(agent.ModuleList, 0o644, []byte(list.String()))
	return nil
}

// hostsFile names all hosts by their address on network 0, and as
// "<name>-net<n>" on every network.
func (l *Lab) hostsFile() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	byPlace := make([]string, len(l.places))
	for name, place := range l.places {
		byPlace[place-1] = name
	}
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n")
	for i, name := range byPlace {
		for n := range l.switches {
			fmt.Fprintf(&b, "%s", addr(n, i+1))
			if n == 0 {
				fmt.Fprintf(&b, " %s", name)
			}
			fmt.Fprintf(&b, " %s-net%d\n", name, n)
		}
	}
	return b.String()
}

// BuildAgent builds cmd/lab statically into the cache, for use as a host's
// init, and returns its path.
func BuildAgent(ctx context.Context) (string, error) {
	return BuildStatic(ctx, "tandem/cmd/lab", "lab")
}

// BuildStatic builds a program of this module without cgo, so that it runs in a
// host that has no libraries, and returns its path in the cache. The working
// directory must be inside the module.
func BuildStatic(ctx context.Context, pkg, name string) (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(dir, ".build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	built := filepath.Join(tmp, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", built, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w: %s", pkg, err, strings.TrimSpace(string(out)))
	}
	final := filepath.Join(dir, name)
	return final, os.Rename(built, final)
}

// IsStatic tells whether a program runs without a dynamic loader.
func IsStatic(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false
		}
	}
	return true
}
