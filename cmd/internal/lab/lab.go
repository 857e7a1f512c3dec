// Package lab makes hosts with working hardware virtualisation out of nothing
// but emulation, joins them by a network of its own, and breaks both on
// request. It is for machines whose own /dev/kvm can't run Linux, and for tests
// that need two hosts and the death of one.
//
// A host is a QEMU process (TCG emulating an AMD CPU with SVM) that boots a
// Debian kernel with an initramfs of busybox, kvm-amd and this project's agent.
// All that is needed comes from Debian packages (see Setup). Nothing a lab makes
// outlives the process that made it: QEMU dies with its parent, and all
// connections to it are inherited socket pairs without a name in the file
// system.
//
// A Lab and its Hosts may be used by many goroutines at once.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"tandem/cmd/internal/lab/ether"
)

// Config says what lab to make. The zero value makes one host on one network.
type Config struct {
	// Hosts are booted at once, all together. Empty means one, named "h1".
	Hosts []HostConfig
	// Networks is how many switches join the hosts; each host has a card on
	// each. Default 1, at most MaxNetworks.
	Networks int
	// CPUs and MemoryMB size every host. A pair must not differ in its CPUs:
	// TCG runs locked operations differently with one and with several.
	CPUs     int // default 1
	MemoryMB int // default 1024
	// Files are put into every host: path in the host → file of this machine.
	Files map[string]string
	// Share is a folder of this machine that all hosts have at SharePath. It is
	// served by this process, beside the networks, so that neither a cut nor the
	// death of a host takes it from the others. Nothing of it is cached: what one
	// host does, link(2) too, all see at once.
	Share string
	// Agent is a static build of cmd/lab. Empty builds it from source, which
	// needs the Go toolchain and a working directory inside the module.
	Agent string
	// Seed drives the losses of the networks.
	Seed uint64
	// Log gets progress lines. Nil discards them.
	Log io.Writer
	// KeepDir, if not empty, is where console logs are left; else they go away
	// with the lab.
	KeepDir string
}

// HostConfig describes one host.
type HostConfig struct {
	Name string // letters, digits, "-"; default h1, h2, ... by place
	// Disks are raw image files, /dev/vda and on.
	Disks []Disk
	// Files are put into this host in addition to the lab's.
	Files map[string]string
}

// Disk is a raw image file attached as virtio-blk.
type Disk struct {
	Path     string
	ReadOnly bool
}

// Limits of a lab: they keep addresses in one octet and this machine usable.
const (
	// SharePath is where hosts have Config.Share.
	SharePath = "/share"

	MaxHosts    = 200
	MaxNetworks = 4

	defaultCPUs     = 1
	defaultMemoryMB = 1024
	minMemoryMB     = 256
)

// Lab is a set of hosts and the switches between them.
type Lab struct {
	cfg       Config
	artifacts *Artifacts
	dir       string // images, and console logs unless they are to be kept
	release   func() // gives dir up
	switches  []*ether.Switch

	mu     sync.Mutex
	hosts  map[string]*Host // running or dead, the latest of each name
	places map[string]int   // name → number in addresses, kept when a host returns
	closed bool

	closeOnce sync.Once
}

// Start sets up what is missing, then boots the hosts. On failure nothing is
// left running, and the error holds the end of the failed host's console.
func Start(ctx context.Context, cfg Config) (*Lab, error) {
	l, err := prepare(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := l.bootAll(ctx, l.cfg.Hosts); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func prepare(ctx context.Context, cfg Config) (*Lab, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	a, err := Setup(ctx, SetupOptions{Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	if cfg.Agent == "" {
		if cfg.Agent, err = BuildAgent(ctx); err != nil {
			return nil, err
		}
	}
	run, err := RunDir()
	if err != nil {
		return nil, err
	}
	dir, release, err := newWorkDir(run)
	if err != nil {
		return nil, err
	}
	if cfg.KeepDir != "" {
		if cfg.KeepDir, err = filepath.Abs(cfg.KeepDir); err == nil {
			err = os.MkdirAll(cfg.KeepDir, 0o755)
		}
		if err != nil {
			release()
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	if cfg.Share != "" {
		if st, err := os.Stat(cfg.Share); err != nil || !st.IsDir() {
			release()
			return nil, errors.Join(fmt.Errorf("%s can't be shared with the hosts: it is no folder", cfg.Share), err, os.RemoveAll(dir))
		}
	}
	l := &Lab{cfg: cfg, artifacts: a, dir: dir, release: release, hosts: map[string]*Host{}, places: map[string]int{}}
	for range cfg.Networks {
		l.switches = append(l.switches, ether.NewSwitch(ether.SystemClock{}, cfg.Seed))
	}
	return l, nil
}

// complete checks a configuration and fills its defaults in.
func (c *Config) complete() error {
	if len(c.Hosts) == 0 {
		c.Hosts = make([]HostConfig, 1)
	}
	c.Hosts = append([]HostConfig(nil), c.Hosts...)
	setDefault(&c.Networks, 1)
	setDefault(&c.CPUs, defaultCPUs)
	setDefault(&c.MemoryMB, defaultMemoryMB)
	switch {
	case len(c.Hosts) > MaxHosts:
		return fmt.Errorf("a lab has %d hosts at most, not %d", MaxHosts, len(c.Hosts))
	case c.Networks < 1 || c.Networks > MaxNetworks:
		return fmt.Errorf("a lab has 1 to %d networks, not %d", MaxNetworks, c.Networks)
	case c.MemoryMB < minMemoryMB:
		return fmt.Errorf("a lab host needs %d MB of memory at least, not %d", minMemoryMB, c.MemoryMB)
	case c.CPUs < 1:
		return fmt.Errorf("a lab host needs at least one CPU, not %d", c.CPUs)
	}
	seen := map[string]bool{}
	for i := range c.Hosts {
		h := &c.Hosts[i]
		if h.Name == "" {
			h.Name = fmt.Sprintf("h%d", i+1)
		}
		if err := validName(h.Name); err != nil {
			return err
		}
		if seen[h.Name] {
			return fmt.Errorf("two hosts are named %q", h.Name)
		}
		seen[h.Name] = true
	}
	return nil
}

func setDefault(v *int, d int) {
	if *v == 0 {
		*v = d
	}
}

const maxNameBytes = 32

func validName(n string) error {
	ok := n != "" && len(n) <= maxNameBytes && n[0] != '-'
	for _, r := range n {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-')
	}
	if !ok {
		return fmt.Errorf("%q can't be a host's name: letters, digits and \"-\", %d at most", n, maxNameBytes)
	}
	return nil
}

func (l *Lab) bootAll(ctx context.Context, hosts []HostConfig) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(hosts))
	for _, h := range hosts {
		l.place(h.Name) // in the order given, so that h1 is .1
	}
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() {
			if _, errs[i] = l.Boot(ctx, h); errs[i] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return errors.Join(errs...)
}

// place returns the number that a host's addresses end in.
func (l *Lab) place(name string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, ok := l.places[name]
	if !ok {
		n = len(l.places) + 1
		l.places[name] = n
	}
	return n
}

// Boot adds a host to the lab and waits until its agent answers. A host that
// is dead may be booted again: it has its old addresses and the links that were
// set for it.
func (l *Lab) Boot(ctx context.Context, hc HostConfig) (*Host, error) {
	if err := validName(hc.Name); err != nil {
		return nil, err
	}
	place := l.place(hc.Name)
	if place > MaxHosts {
		return nil, fmt.Errorf("a lab has %d hosts at most", MaxHosts)
	}
	l.mu.Lock()
	old := l.hosts[hc.Name]
	closed := l.closed
	l.mu.Unlock()
	if closed {
		return nil, errors.New("the lab is closed")
	}
	if old != nil && old.Alive() {
		return nil, fmt.Errorf("host %s is running already", hc.Name)
	}
	h, err := l.boot(ctx, hc, place)
	if err != nil {
		return nil, fmt.Errorf("booting host %s: %w", hc.Name, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		h.Kill()
		return nil, errors.New("the lab was closed")
	}
	l.hosts[hc.Name] = h
	return h, nil
}

// Host returns a host by name, nil if there is none.
func (l *Lab) Host(name string) *Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hosts[name]
}

// Hosts lists the hosts, dead ones too, in the order in which they came.
func (l *Lab) Hosts() []*Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]*Host, len(l.places))
	for n, h := range l.hosts {
		out[l.places[n]-1] = h
	}
	alive := out[:0]
	for _, h := range out {
		if h != nil {
			alive = append(alive, h)
		}
	}
	return alive
}

// HostConfig returns how a host was configured when the lab started, or, for a
// new name, what a host of that name gets by default.
func (l *Lab) HostConfig(name string) HostConfig {
	for _, h := range l.cfg.Hosts {
		if h.Name == name {
			return h
		}
	}
	return HostConfig{Name: name}
}

// ConsolePath is where a host's serial console is logged.
func (l *Lab) ConsolePath(host string) string {
	dir := l.dir
	if l.cfg.KeepDir != "" {
		dir = l.cfg.KeepDir
	}
	return filepath.Join(dir, host+".console")
}

// Switch returns the switch of network n, from 0. Ports are named after hosts.
func (l *Lab) Switch(n int) *ether.Switch { return l.switches[n] }

// Networks is how many networks there are.
func (l *Lab) Networks() int { return len(l.switches) }

// Artifacts are the files that the lab was made from.
func (l *Lab) Artifacts() *Artifacts { return l.artifacts }

// Addr is the address of host number place (from 1) on a network.
func addr(network, place int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 77, byte(network), byte(place)})
}

// mac is the address of a host's card: locally administered, 'M' for tandem.
func mac(network, place int) string {
	return fmt.Sprintf("52:54:00:4d:%02x:%02x", network, place)
}

// Close ends all hosts at once and removes what the lab left, but for KeepDir.
func (l *Lab) Close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	for _, h := range l.Hosts() {
		h.Kill()
	}
	for _, s := range l.switches {
		s.Close()
	}
	l.closeOnce.Do(l.release)
	return os.RemoveAll(l.dir)
}
