package main

import (
	"bytes"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tandem/devices/virtio"
	"tandem/vmm"
	"tandem/vmm/netdev"
)

// hostSide opens the devices that flags ask for.
func hostSide(t *testing.T, flags deviceFlags) *hostDevices {
	t.Helper()
	spec, err := flags.read()
	if err != nil {
		t.Fatal(err)
	}
	c := &console{output: vmm.NewConsoleWriter(io.Discard)}
	p := &part{console: c, display: newDisplay(io.Discard, false), leave: func() {}}
	h, err := openHostDevices(spec, p, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.close(); err != nil {
			t.Error(err)
		}
		p.display.close()
		_ = c.close()
	})
	return h
}

// TestComplete puts this host's devices behind machines that a primary has sent, if they suit them.
func TestComplete(t *testing.T) {
	disk := func(readOnly bool) vmm.Disk {
		return vmm.Disk{BlkConfig: virtio.BlkConfig{Sectors: 16, ReadOnly: readOnly}, Name: "the primary's"}
	}
	nic := func(change func(*virtio.NetConfig)) vmm.NIC {
		c := virtio.NetConfig{MAC: netdev.DefaultMAC(0), MTU: 1500}
		change(&c)
		return vmm.NIC{NetConfig: c}
	}
	plain := func(*virtio.NetConfig) {}
	tests := []struct {
		name   string
		flags  deviceFlags
		config vmm.Config
		says   string // "": it is taken
	}{
		{"nothing", deviceFlags{}, vmm.Config{}, ""},
		{"all", deviceFlags{disks: []string{"a", "b,ro"}, nets: []string{"none"}},
			vmm.Config{Disks: []vmm.Disk{disk(false), disk(true)}, NICs: []vmm.NIC{nic(plain)}}, ""},
		{"no disk", deviceFlags{}, vmm.Config{Disks: []vmm.Disk{disk(false)}}, "the guest has 1 disks and this host 0"},
		{"a disk too many", deviceFlags{disks: []string{"a"}}, vmm.Config{}, "the guest has 0 disks and this host 1"},
		{"written and read-only", deviceFlags{disks: []string{"a,ro"}}, vmm.Config{Disks: []vmm.Disk{disk(false)}}, "disk 0 (--disk a): the guest writes to it"},
		{"read-only and written", deviceFlags{disks: []string{"a"}}, vmm.Config{Disks: []vmm.Disk{disk(true)}}, "disk 0 (--disk a): the primary's is read-only"},
		{"no network", deviceFlags{}, vmm.Config{NICs: []vmm.NIC{nic(plain)}}, "the guest has 1 network devices and this host 0"},
		{"another MAC", deviceFlags{nets: []string{"none,mac=52:54:00:00:00:01"}}, vmm.Config{NICs: []vmm.NIC{nic(plain)}}, "add mac=52:54:00:74:00:00"},
		{"long packets", deviceFlags{nets: []string{"none"}},
			vmm.Config{NICs: []vmm.NIC{nic(func(c *virtio.NetConfig) { c.MTU = 9000 })}}, "add mtu=9000"},
		{"checksums", deviceFlags{nets: []string{"none"}},
			vmm.Config{NICs: []vmm.NIC{nic(func(c *virtio.NetConfig) { c.Checksum = true })}}, "leaves checksums to its network"},
		{"segments", deviceFlags{nets: []string{"none"}},
			vmm.Config{NICs: []vmm.NIC{nic(func(c *virtio.NetConfig) { c.TSO = true })}}, "cutting long segments"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := hostSide(t, tt.flags)
			err := h.Complete(&tt.config)
			if tt.says != "" {
				if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%v, want a line with %q", err, tt.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if tt.config.Console == nil || tt.config.Debug == nil {
				t.Error("the machine has no console")
			}
			for i, n := range tt.config.NICs {
				if n.Out == nil || n.OnOffloads == nil {
					t.Errorf("network device %d is connected to nothing", i)
				}
			}
			options := h.Disks()
			for i, d := range tt.config.Disks {
				if d.Name != options[i].Path || d.ReadOnly != options[i].ReadOnly {
					t.Errorf("disk %d is %s, this host's %+v", i, d.Name, options[i])
				}
			}
		})
	}
}

// TestConfigureFirstMachine gives a machine that starts here what the flags ask for.
func TestConfigureFirstMachine(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	h := hostSide(t, deviceFlags{disks: []string{image}, nets: []string{"none"}, rng: true})
	for range 2 { // the image is each machine's own to close
		var c vmm.Config
		if err := h.configure(&c); err != nil {
			t.Fatal(err)
		}
		if len(c.Disks) != 1 || c.Disks[0].Sectors != 16 || len(c.NICs) != 1 || !c.Entropy || c.Console == nil {
			t.Errorf("%+v", c)
		}
		if err := closeDisks(c.Disks); err != nil {
			t.Error(err)
		}
	}
}

// backendTap notes what goes out.
type backendTap struct {
	netdev.Backend
	out chan []byte
}

func (b backendTap) Output(packet []byte) { b.out <- packet }

// TestAnnounce looks at what reaches the network, which is closed while announcements are under way.
func TestAnnounce(t *testing.T) {
	h := hostSide(t, deviceFlags{nets: []string{"none"}})
	tap := backendTap{h.cards[0].backend, make(chan []byte, 16)}
	h.cards[0].backend = tap
	address := netip.MustParseAddr("10.0.0.5")
	h.Announce(-1, nil)
	h.Announce(1, nil)
	h.Announce(0, []netip.Addr{address})
	want := append(make([]byte, 12), announcements(netdev.DefaultMAC(0), []netip.Addr{address})[0]...)
	for i := range announceAt {
		if got := <-tap.out; !bytes.Equal(got, want) {
			t.Errorf("announcement %d is %x, want %x", i, got, want)
		}
	}
	h.Announce(0, nil) // close ends it
}
