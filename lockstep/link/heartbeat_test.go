package link

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

func udp(t testing.TB) net.PacketConn {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return c
}

// beats opens heartbeats on both ends of a link; the listener learns where the dialer is.
func beats(t testing.TB, a, b *Conn) (dialer, listener *Heartbeat) {
	t.Helper()
	socketA, socketB := udp(t), udp(t)
	dialer, err := a.OpenHeartbeat(socketA, socketB.LocalAddr().(*net.UDPAddr).AddrPort())
	if err != nil {
		t.Fatal(err)
	}
	listener, err = b.OpenHeartbeat(socketB, netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	return dialer, listener
}

func TestHeartbeatsBothWays(t *testing.T) {
	s := newSite(t)
	a, b := s.join(t)
	ha, hb := beats(t, a, b)
	if err := hb.Send(nil); !errors.Is(err, ErrNoPeerAddress) {
		t.Errorf("before the first beat: %v", err)
	}
	for _, payload := range [][]byte{[]byte("term 7"), {}, make([]byte, MaxBeatBytes)} {
		if err := ha.Send(payload); err != nil {
			t.Fatal(err)
		}
		if got, err := hb.Receive(); err != nil || !bytes.Equal(got, payload) {
			t.Fatalf("%q, %v", got, err)
		}
		if err := hb.Send(payload); err != nil {
			t.Fatal(err)
		}
		if got, err := ha.Receive(); err != nil || !bytes.Equal(got, payload) {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if err := ha.Send(make([]byte, MaxBeatBytes+1)); !errors.Is(err, ErrOversize) {
		t.Errorf("over the bound: %v", err)
	}
	if _, err := a.OpenHeartbeat(udp(t), netip.AddrPort{}); err == nil {
		t.Error("the same keys began twice")
	}
	ha.Close()
	if _, err := ha.Receive(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// TestForgedHeartbeatsAreLeftOut: what is no new beat of this connection's peer is neither a sign of life nor an address.
func TestForgedHeartbeatsAreLeftOut(t *testing.T) {
	s := newSite(t)
	oldA, oldB := s.join(t)
	oldBeat, _ := beats(t, oldA, oldB)
	a, b := s.join(t)
	ha, hb := beats(t, a, b)
	attacker := udp(t)
	throw := func(datagram []byte) {
		if _, err := attacker.WriteTo(datagram, hb.socket.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	first := ha.sealer.seal([]byte("1"))
	second := ha.sealer.seal([]byte("2"))
	changed := bytes.Clone(second)
	changed[len(changed)-1] ^= 1
	raised := bytes.Clone(second)
	raised[8] = 200 // its counter
	if _, err := hb.opener.open(bytes.Clone(second)); err != nil {
		t.Fatal(err)
	}
	forged := [][]byte{nil, []byte("garbage"), bytes.Repeat([]byte{0xff}, 2000), first, second, changed, raised,
		oldBeat.sealer.seal([]byte("old connection")), hb.sealer.seal([]byte("reflected")), second[:beatHeaderSize]}
	for _, f := range forged {
		throw(f)
	}
	if err := ha.Send([]byte("3")); err != nil {
		t.Fatal(err)
	}
	if got, err := hb.Receive(); err != nil || string(got) != "3" {
		t.Fatalf("%q, %v", got, err)
	}
	if n := hb.Refused(); n != uint64(len(forged)) {
		t.Errorf("%d of %d left out", n, len(forged))
	}
	if hb.peer.String() != ha.socket.LocalAddr().String() {
		t.Errorf("beats would go to %v", hb.peer)
	}
}

// FuzzHeartbeat: nothing but what the peer sealed is taken, and that only once.
func FuzzHeartbeat(f *testing.F) {
	keys := bytes.Repeat([]byte{7}, 2*beatKeySize)
	aead, err := beatCipher(keys, senderDialer)
	if err != nil {
		f.Fatal(err)
	}
	good := (&sealer{aead: aead, sender: senderDialer}).seal([]byte("beat"))
	f.Add(bytes.Clone(good)) // what is opened is opened in place
	f.Add(bytes.Clone(good[:20]))
	f.Add(bytes.Repeat([]byte{0}, 40))
	f.Fuzz(func(t *testing.T, datagram []byte) {
		o := opener{aead: aead, sender: senderDialer}
		sent := bytes.Clone(datagram)
		payload, err := o.open(datagram)
		if (err == nil) != bytes.Equal(sent, good) {
			t.Errorf("% x: %q, %v", sent, payload, err)
		}
		if _, again := o.open(bytes.Clone(sent)); again == nil {
			t.Error("taken twice")
		}
	})
}

// stuckSocket is on a network that takes nothing.
type stuckSocket struct {
	net.PacketConn
	until time.Time // the deadline
}

func (s *stuckSocket) SetWriteDeadline(t time.Time) error {
	s.until = t
	return nil
}

func (s *stuckSocket) WriteTo([]byte, net.Addr) (int, error) { return 0, os.ErrDeadlineExceeded }

// TestStuckHeartbeat: who sends heartbeats does other things too, and must not wait for the second path's network.
func TestStuckHeartbeat(t *testing.T) {
	a, _ := newSite(t).join(t)
	socket := &stuckSocket{PacketConn: udp(t)}
	h, err := a.OpenHeartbeat(socket, netip.MustParseAddrPort("127.0.0.1:1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Send(nil); !errors.Is(err, os.ErrDeadlineExceeded) || socket.until.IsZero() {
		t.Errorf("%v, with the deadline %v", err, socket.until)
	}
}
