package failover

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"tandem/lockstep/link"
)

// testAttacks knocks at the port of the log as nobody's peer would. The guest must not notice.
func (s *scene) testAttacks(t *testing.T) {
	done := s.work(t)
	attacker, err := s.Lab.Client(0, netip.MustParsePrefix("10.77.0.66/24"))
	s.must(t, err)
	defer attacker.Close()
	for _, side := range s.Sides {
		target := side.address(0, logPort)
		dial := func() (net.Conn, error) { return attacker.DialContext(s.ctx, "tcp", target) }
		s.slowLoris(t, dial)
		s.garbage(t, dial)
		s.noKey(t, dial)
		s.staleKey(t, dial)
	}
	s.answered(t)
	status, err := s.primary.Status(s.ctx)
	s.must(t, err)
	if !Protected(status) {
		t.Errorf("after the attacks the guest is %s, %s", status.Role, status.State)
	}
	done()
}

// slowLoris opens connections and says nothing, or one byte.
func (s *scene) slowLoris(t *testing.T, dial func() (net.Conn, error)) {
	t.Helper()
	for i := range 20 {
		conn, err := dial()
		s.must(t, err)
		t.Cleanup(func() { conn.Close() })
		if i%2 == 0 {
			_, _ = conn.Write([]byte{0x16}) // a TLS record's first byte
		}
	}
}

// garbage sends what is no handshake, much of it.
func (s *scene) garbage(t *testing.T, dial func() (net.Conn, error)) {
	t.Helper()
	random := make([]byte, 256<<10)
	_, _ = rand.Read(random)
	for _, text := range [][]byte{random, bytes.Repeat([]byte{0xff}, 64<<10), append([]byte{0x16, 3, 3, 0xff, 0xff}, random...), []byte("GET / HTTP/1.1\r\n\r\n")} {
		conn, err := dial()
		s.must(t, err)
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		_, _ = conn.Write(text)
		if answer, err := io.ReadAll(io.LimitReader(conn, 1<<16)); err == nil && len(answer) == 1<<16 {
			t.Error("garbage is answered at length")
		}
		conn.Close()
	}
}

// noKey shakes hands as anyone could.
func (s *scene) noKey(t *testing.T, dial func() (net.Conn, error)) {
	t.Helper()
	conn, err := dial()
	s.must(t, err)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("somebody without a key is let in")
	}
}

// staleKey comes with keys that tandem keygen made, for another pair.
func (s *scene) staleKey(t *testing.T, dial func() (net.Conn, error)) {
	t.Helper()
	keys := filepath.Join(t.TempDir(), "keys")
	if out, err := exec.CommandContext(s.ctx, s.cfg.Tandem, "keygen", "--out", keys, "--hosts", "h1,h2").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	credentials, err := link.LoadCredentials(filepath.Join(keys, "h2"))
	s.must(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(freePort(t)))
	s.must(t, err)
	relayTo(t, listener, dial)
	ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
	defer cancel()
	if conn, err := link.Dial(ctx, listener.Addr().String(), link.Config{Credentials: credentials}); err == nil {
		conn.Close()
		t.Error("somebody with another pair's key is let in")
	}
}
