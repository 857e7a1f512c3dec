package netdev

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"tandem/devices/virtio"
	"tandem/vmm/netdev/frame"
)

// inNamespace runs the rest of the test in a network namespace of its own, which has a bridge br0 with 10.99.0.1/24.
func inNamespace(t *testing.T) netlink.Link {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("taps and network namespaces need root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("this host has no /dev/net/tun")
	}
	runtime.LockOSThread() // never unlocked: the thread has another namespace and ends with the test
	ns, err := netns.New()
	if err != nil {
		t.Skipf("no network namespace can be made here: %v", err)
	}
	t.Cleanup(func() { ns.Close() })
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}); err != nil {
		t.Skipf("no bridge can be made here: %v", err)
	}
	bridge, err := netlink.LinkByName("br0")
	if err != nil {
		t.Fatal(err)
	}
	address, err := netlink.ParseAddr("10.99.0.1/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(bridge, address); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		t.Fatal(err)
	}
	return bridge
}

func links(t *testing.T) []string {
	t.Helper()
	all, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range all {
		names = append(names, l.Attrs().Name)
	}
	slices.Sort(names)
	return names
}

func TestTap(t *testing.T) {
	bridge := inNamespace(t)
	before := links(t)
	m, other := newMachine(), newMachine()
	c, err := Parse("tap,bridge=br0,ifname=guest0,mtu=1400", 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open(c, m.post, discard())
	if err != nil {
		t.Fatal(err)
	}
	open(t, "tap,bridge=br0", other, discard())
	l, err := netlink.LinkByName("guest0")
	if err != nil {
		t.Fatal(err)
	}
	if l.Attrs().MasterIndex != bridge.Attrs().Index || l.Attrs().MTU != 1400 {
		t.Errorf("the interface has master %d and MTU %d", l.Attrs().MasterIndex, l.Attrs().MTU)
	}
	// Until the bridge has seen its port come up, it forwards nothing.
	sent := make(chan struct{})
	go func() {
		for {
			b.Output(broadcast("hello"))
			select {
			case <-sent:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	if got := other.next(t, says("hello")); !bytes.Equal(got[frame.HeaderBytes:], broadcast("hello")[frame.HeaderBytes:]) {
		t.Errorf("got %q", got)
	}
	close(sent)
	m.end()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if now := links(t); len(now) != len(before)+1 || slices.Contains(now, "guest0") {
		t.Errorf("after the end there are %v", now)
	}
}

// TestTapChecksums sends and receives datagrams whose checksum is left to the other side.
func TestTapChecksums(t *testing.T) {
	bridge := inNamespace(t)
	host := netip.MustParseAddr("10.99.0.1")
	server, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(host, 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	_ = server.SetDeadline(time.Now().Add(deadline))
	to := server.LocalAddr().(*net.UDPAddr).AddrPort()
	m := newMachine()
	b := open(t, "tap,bridge=br0", m, discard())
	if bridge, err = netlink.LinkByName("br0"); err != nil { // its address may have become the tap's
		t.Fatal(err)
	}
	guest := netip.MustParseAddr("10.99.0.2")
	neighbour := &netlink.Neigh{LinkIndex: bridge.Attrs().Index, IP: guest.AsSlice(), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}, State: netlink.NUD_PERMANENT}
	if err := netlink.NeighAdd(neighbour); err != nil {
		t.Fatal(err)
	}
	for _, offloads := range []virtio.Offloads{{}, {Checksum: true, TSO4: true, TSO6: true}, {}} {
		b.SetOffloads(offloads)
		received := make(chan struct{})
		go func() {
			for {
				b.Output(udpFrame(bridge.Attrs().HardwareAddr, netip.AddrPortFrom(guest, 7), to, "question", true))
				select {
				case <-received:
					return
				case <-time.After(10 * time.Millisecond):
				}
			}
		}()
		p := make([]byte, 100)
		n, from, err := server.ReadFromUDPAddrPort(p)
		close(received)
		if err != nil || string(p[:n]) != "question" {
			t.Fatalf("the host received %q, %v", p[:n], err)
		}
		if _, err := server.WriteToUDPAddrPort([]byte("answer"), from); err != nil {
			t.Fatal(err)
		}
		got := m.next(t, says("answer"))
		if needs := got[0]&1 != 0; needs != offloads.Checksum {
			t.Errorf("with offloads %+v the packet has flags %d", offloads, got[0])
		}
	}
}

func TestTapIsGone(t *testing.T) {
	inNamespace(t)
	log := &lines{}
	b := open(t, "tap,bridge=br0,ifname=guest0", newMachine(), log.logger())
	l, err := netlink.LinkByName("guest0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(l); err != nil {
		t.Fatal(err)
	}
	until(t, "the loss is reported", func() bool {
		b.Output(broadcast("x"))
		return log.count("network is down") > 0
	})
	for range 3 * maxQueuedPackets {
		b.Output(broadcast("x"))
	}
	b.SetOffloads(virtio.Offloads{})
	if log.count("network is down") != 1 {
		t.Error("the loss is reported more than once")
	}
}

func TestTapErrors(t *testing.T) {
	inNamespace(t)
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "mine"}}); err != nil {
		t.Fatal(err)
	}
	before := links(t)
	for text, want := range map[string]string{
		"tap,bridge=nosuch":          "there is no bridge nosuch",
		"tap,bridge=lo":              "lo is not a bridge",
		"tap,bridge=br0,ifname=mine": "mine already",
	} {
		c, err := Parse(text, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(c, newMachine().post, discard()); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: want %q, got %v", text, want, err)
		}
	}
	// An interface that was made when a later step fails must not stay.
	c := Config{Kind: Tap, Bridge: "br0", MTU: 1 << 20}
	if _, err := Open(c, newMachine().post, discard()); err == nil {
		t.Error("an impossible MTU is accepted")
	}
	if now := links(t); !slices.Equal(now, before) {
		t.Errorf("links were %v and are %v", before, now)
	}
}
