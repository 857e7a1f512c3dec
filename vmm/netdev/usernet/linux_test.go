package usernet

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"tandem/vmm/netdev/frame"
)

// linuxGuest is a network whose guest is this host's kernel: the first lease's address is on a tap in a network namespace. The
// thread of the test is in that namespace, so that its sockets are the guest's.
type linuxGuest struct {
	net      *Network
	from, to atomic.Int64 // frames from the guest, and to it
}

func newLinuxGuest(t testing.TB, segments bool) *linuxGuest {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("taps and network namespaces need root")
	}
	g := &linuxGuest{}
	file := make(chan *os.File, 1)
	var err error
	// The network's own sockets are made by threads that stay outside of the namespace.
	g.net, err = newNetwork(Config{MAC: guestMAC, MTU: 1500, Loopback: true}, func(p []byte) error {
		g.to.Add(1)
		f := <-file
		file <- f
		_, err := f.Write(p)
		return err
	}, loopbackOnly)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.net.Close() })
	g.net.SetSegments(segments)
	f := openLinuxTap(t, segments)
	t.Cleanup(func() { f.Close() }) // before the network, which would wait for its sender
	file <- f
	go g.send(f)
	return g
}

// openLinuxTap makes a namespace with a tap in it, which has the guest's address.
func openLinuxTap(t testing.TB, segments bool) *os.File {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread has another namespace and ends with the test
	ns, err := netns.New()
	if err != nil {
		t.Skipf("no network namespace can be made here: %v", err)
	}
	t.Cleanup(func() { ns.Close() })
	tap := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: "guest"}, Mode: netlink.TUNTAP_MODE_TAP, NonPersist: true, Queues: 1,
		Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR | netlink.TUNTAP_TUN_EXCL,
	}
	if err := netlink.LinkAdd(tap); err != nil {
		t.Skipf("no tap can be made here: %v", err)
	}
	f := tap.Fds[0]
	offloads := unix.TUN_F_CSUM
	if segments {
		offloads |= unix.TUN_F_TSO4
	}
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var size, set error
	err = raw.Control(func(fd uintptr) {
		size = unix.IoctlSetPointerInt(int(fd), unix.TUNSETVNETHDRSZ, frame.HeaderBytes)
		set = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, offloads)
	})
	if err != nil || size != nil || set != nil {
		t.Fatal(err, size, set)
	}
	address, err := netlink.ParseAddr(netip.PrefixFrom(firstGuest, subnet.Bits()).String())
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(tap, address); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(tap); err != nil {
		t.Fatal(err)
	}
	return f
}

// send hands what the kernel sends to the network.
func (g *linuxGuest) send(f *os.File) {
	for {
		p := make([]byte, frame.HeaderBytes+frame.MaxBytes)
		n, err := f.Read(p)
		if err != nil {
			return // it is closed
		}
		g.from.Add(1)
		g.net.Output(p[:n])
	}
}

// dial connects to a port of the host's loopback.
func (g *linuxGuest) dial(t testing.TB, port uint16) *net.TCPConn {
	t.Helper()
	conn, err := net.DialTimeout("tcp4", netip.AddrPortFrom(gateway, port).String(), deadline)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(deadline))
	return conn.(*net.TCPConn)
}

// TestLinux has Linux check what the network sends, checksums and long segments above all.
func TestLinux(t *testing.T) {
	for _, segments := range []bool{false, true} {
		t.Run(fmt.Sprintf("segments=%v", segments), func(t *testing.T) {
			server := echo(t) // before the thread is in the guest
			g := newLinuxGuest(t, segments)
			conn := g.dial(t, server.Port())
			defer conn.Close()
			const size = 8 << 20
			exchange(t, conn, size)
			frames := g.to.Load()
			t.Logf("%d frames from the guest and %d to it for %d bytes there and back", g.from.Load(), frames, size)
			if least := int64(size / 1500); segments == (frames >= least) {
				t.Errorf("%d frames carry %d bytes", frames, size)
			}
		})
	}
}

// BenchmarkTCP sends a stream from and to a guest that is this host's kernel, whose driver takes long segments or not. Each
// frame to the guest is an input of the machine's.
func BenchmarkTCP(b *testing.B) {
	for _, segments := range []bool{false, true} {
		for _, way := range []string{"from", "to"} {
			b.Run(fmt.Sprintf("%s/segments=%v", way, segments), func(b *testing.B) { benchmarkTCP(b, way == "to", segments) })
		}
	}
}

func benchmarkTCP(b *testing.B, toGuest, segments bool) {
	const size = 8 << 20
	listener, err := net.Listen("tcp", "127.0.0.1:0") // before the thread is in the guest
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if toGuest {
				_, _ = conn.Write(make([]byte, size)) // the guest counts
			} else {
				n, _ := io.Copy(io.Discard, conn)
				_, _ = fmt.Fprint(conn, n)
			}
			conn.Close()
		}
	}()
	g := newLinuxGuest(b, segments)
	port := listener.Addr().(*net.TCPAddr).AddrPort().Port()
	b.SetBytes(size)
	for b.Loop() {
		conn := g.dial(b, port)
		want := int64(size)
		if !toGuest {
			if _, err := conn.Write(make([]byte, size)); err != nil {
				b.Fatal(err)
			}
			_ = conn.CloseWrite()
			want = int64(len(fmt.Sprint(size)))
		}
		if n, err := io.Copy(io.Discard, conn); n != want || err != nil {
			b.Fatal(n, err)
		}
		conn.Close()
	}
	mb := float64(size) / 1e6 * float64(b.N)
	b.ReportMetric(float64(g.from.Load())/mb, "out-frames/MB")
	b.ReportMetric(float64(g.to.Load())/mb, "in-frames/MB")
}
