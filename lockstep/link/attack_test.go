package link

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// ownAsTrust is a trust file with this host's own certificate.
func (c *Credentials) ownAsTrust() []*x509.Certificate { return []*x509.Certificate{c.own.Leaf} }

// tlsClient dials with crypto/tls alone: a peer that checks nothing itself.
func tlsClient(t testing.TB, s *site, c *Credentials, protocols ...string) (*tls.Conn, error) {
	t.Helper()
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: protocols}
	if c != nil {
		config.Certificates = []tls.Certificate{c.own}
	}
	conn, err := tls.Dial("tcp", s.address(), config)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetReadDeadline(time.Now().Add(patience))
	_, err = conn.Read(make([]byte, 1))
	return conn, err
}

// traffic keeps a link busy: numbered messages one way, each answered. It reports the first thing that goes wrong.
type traffic struct {
	stop   chan struct{}
	ended  chan error
	rounds chan struct{} // one for each round, if somebody waits
}

func startTraffic(a, b *Conn) *traffic {
	f := &traffic{stop: make(chan struct{}), ended: make(chan error, 2), rounds: make(chan struct{})}
	go func() {
		for {
			kind, payload, err := b.Receive()
			if errors.Is(err, io.EOF) || errors.Is(err, ErrClosed) {
				return
			}
			if err == nil {
				err = errors.Join(b.Send(kind, payload), b.Flush())
			}
			if err != nil {
				f.ended <- err
				return
			}
		}
	}()
	go func() { f.ended <- f.run(a) }()
	return f
}

func (f *traffic) run(a *Conn) error {
	for i := byte(0); ; i++ {
		payload := bytes.Repeat([]byte{i}, 1000)
		if err := errors.Join(a.Send(5, payload), a.Flush()); err != nil {
			return err
		}
		if _, got, err := a.Receive(); err != nil || !bytes.Equal(got, payload) {
			return errors.Join(err, errors.New("an answer is not what was asked"))
		}
		select {
		case <-f.stop:
			return nil
		case f.rounds <- struct{}{}:
		default:
		}
	}
}

// goesOn waits until the link has carried some more.
func (f *traffic) goesOn(t *testing.T) {
	t.Helper()
	for range 20 {
		select {
		case <-f.rounds:
		case err := <-f.ended:
			t.Fatalf("the established link ended: %v", err)
		case <-time.After(patience):
			t.Fatal("the established link stands still")
		}
	}
}

// TestAttacksLeaveTheLinkAlone: strangers of every kind are refused and logged while an established link works on.
func TestAttacksLeaveTheLinkAlone(t *testing.T) {
	s := newSite(t)
	a, b := s.join(t)
	work := startTraffic(a, b)
	stranger, _ := pairKeys(t, time.Now(), time.Hour)
	tests := []struct {
		name   string
		attack func(t *testing.T)
		log    string // part of the reason
	}{
		{"no key", func(t *testing.T) {
			if _, err := tlsClient(t, s, nil, "tandem/1"); err == nil {
				t.Error("accepted")
			}
		}, "client didn't provide a certificate"},
		{"key of an earlier keygen", func(t *testing.T) {
			if _, err := tlsClient(t, s, stranger, "tandem/1"); err == nil {
				t.Error("accepted")
			}
		}, "not in the trust file"},
		{"no protocol named", func(t *testing.T) {
			if _, err := tlsClient(t, s, s.dialer.Credentials); err == nil {
				t.Error("accepted")
			}
		}, "not a Tandem peer"},
		{"a browser", func(t *testing.T) {
			if _, err := tlsClient(t, s, nil, "h2", "http/1.1"); err == nil {
				t.Error("accepted")
			}
		}, "not a Tandem peer"},
		{"old TLS", func(t *testing.T) {
			c, err := tls.Dial("tcp", s.address(), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12,
				NextProtos: []string{"tandem/1"}})
			if err == nil {
				c.Close()
				t.Error("accepted")
			}
		}, "unsupported"},
		{"HTTP without TLS", func(t *testing.T) { sendRaw(t, s, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")) }, "not a Tandem peer"},
		{"garbage", func(t *testing.T) {
			b := make([]byte, 8<<10)
			rand.Read(b)
			b[0] = 0xff
			sendRaw(t, s, b)
		}, "not a Tandem peer"},
		{"endless first record", func(t *testing.T) {
			// Handshake records that never make a message: RFC 8446 §5.1 lets one span many records.
			record := append([]byte{22, 3, 1, 0x40, 0}, make([]byte, 0x4000)...)
			copy(record[5:], []byte{1, 0, 0xff, 0xff})
			sendRaw(t, s, bytes.Repeat(record, 8))
		}, "more bytes than a handshake has"},
		{"port scan", func(t *testing.T) { sendRaw(t, s, nil) }, "EOF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s.listener.refusals.restart()
			before := s.listener.Refused()
			tt.attack(t)
			until(t, "a refusal", func() bool { return s.listener.Refused() > before })
			if !eventually(func() bool { return strings.Contains(s.log.String(), tt.log) }) {
				t.Fatalf("%q is not in the log:\n%s", tt.log, s.log)
			}
			work.goesOn(t)
		})
	}
	close(work.stop)
	if err := <-work.ended; err != nil {
		t.Error(err)
	}
}

// restart lets the next refusal be logged: this test makes more of them than a host's log would take.
func (r *refusals) restart() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.began, r.logged = time.Time{}, 0
}

// sendRaw writes bytes to the listener and waits until it hangs up.
func sendRaw(t *testing.T, s *site, b []byte) {
	t.Helper()
	c, err := net.Dial("tcp", s.address())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	c.Write(b) // it may hang up before it has all
	if len(b) == 0 {
		return
	}
	if _, err := io.Copy(io.Discard, c); errors.Is(err, context.DeadlineExceeded) {
		t.Error("the listener does not hang up")
	}
}

// TestSlowLoris: connections that trickle are ended, and don't keep a peer out while they last.
func TestSlowLoris(t *testing.T) {
	s := newSite(t)
	a, b := s.join(t)
	work := startTraffic(a, b)
	var held []net.Conn
	for range 3 * MaxPending {
		c, err := net.Dial("tcp", s.address())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write([]byte{22, 3, 1}) // the beginning of a record
		held = append(held, c)
	}
	until(t, "the oldest to give way", func() bool { return s.listener.Refused() >= 2*MaxPending })
	s.listener.mu.Lock()
	if n := len(s.listener.pending); n > MaxPending {
		t.Errorf("%d connections are pending", n)
	}
	s.listener.mu.Unlock()
	if !strings.Contains(s.log.String(), "gave way") {
		t.Errorf("log: %s", s.log)
	}
	s.join(t) // among them
	work.goesOn(t)
	close(work.stop)
	if err := <-work.ended; err != nil {
		t.Error(err)
	}
	held[0].SetReadDeadline(time.Now().Add(patience))
	if _, err := held[0].Read(make([]byte, 1)); err == nil {
		t.Error("the oldest is still open")
	}
}

func TestHandshakeHasADeadline(t *testing.T) {
	s := newSite(t)
	s.listen.HandshakeTimeout = 20 * time.Millisecond
	s.start(t)
	c, err := net.Dial("tcp", s.address())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, c); errors.Is(err, context.DeadlineExceeded) {
		t.Error("a silent connection stays")
	}
	until(t, "the reason in the log", func() bool { return strings.Contains(s.log.String(), ErrHandshakeTimeout.Error()) })
}

// TestPeersNobodyTakes: a proved peer that Accept does not take is closed after a while, and Close ends one that waits.
func TestPeersNobodyTakes(t *testing.T) {
	s := newSite(t)
	c, err := Dial(t.Context(), s.address(), s.dialer)
	if err != nil {
		t.Fatal(err)
	}
	s.listener.Close()
	if _, _, err := c.Receive(); err == nil {
		t.Error("a link to a closed listener")
	}
}

// tape is a man in the middle who keeps what the dialer sends.
type tape struct {
	listener net.Listener
	mu       sync.Mutex
	bytes    []byte
}

func newTape(t *testing.T, to string) *tape {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p := &tape{listener: l}
	go func() {
		client, err := l.Accept()
		if err != nil {
			return
		}
		defer client.Close()
		server, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer server.Close()
		go io.Copy(client, server)
		io.Copy(server, io.TeeReader(client, p))
	}()
	return p
}

func (p *tape) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes = append(p.bytes, b...)
	return len(b), nil
}

// TestOldStreamIsNotTakenAgain: the bytes of a whole earlier connection, sent anew, make no connection.
func TestOldStreamIsNotTakenAgain(t *testing.T) {
	s := newSite(t)
	p := newTape(t, s.address())
	c, err := Dial(t.Context(), p.listener.Addr().String(), s.dialer)
	if err != nil {
		t.Fatal(err)
	}
	first, err := s.listener.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Send(1, []byte("go live")), c.Flush()); err != nil {
		t.Fatal(err)
	}
	if _, payload, err := first.Receive(); err != nil || string(payload) != "go live" {
		t.Fatalf("%q, %v", payload, err)
	}
	c.Close()
	first.Receive()
	a, b := s.join(t)
	work := startTraffic(a, b)
	p.mu.Lock()
	recorded := bytes.Clone(p.bytes)
	p.mu.Unlock()
	before := s.listener.Refused()
	sendRaw(t, s, recorded)
	until(t, "a refusal", func() bool { return s.listener.Refused() > before })
	work.goesOn(t)
	close(work.stop)
	if err := <-work.ended; err != nil {
		t.Error(err)
	}
}

// TestPeerThatBreaksTheRules: one with a good key that sends no frames, or too long ones, is cut off by name.
func TestPeerThatBreaksTheRules(t *testing.T) {
	tests := []struct {
		name  string
		bytes []byte
		want  error
	}{
		{"oversize", appendFrame(nil, 1, 1, make([]byte, DefaultMaxPayloadBytes+1)), ErrOversize},
		{"garbage", bytes.Repeat([]byte{0x55}, 100), ErrMalformed},
		{"the link's own kind", appendFrame(nil, kindOwn, 1, []byte("x")), ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t)
			a, b := s.join(t)
			go a.tls.Write(tt.bytes)
			if _, _, err := b.Receive(); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			b.Close()
		})
	}
}

func TestRefusalsAreLoggedAtABoundedRate(t *testing.T) {
	var log bytes.Buffer
	now := time.Unix(1000, 0)
	r := newRefusals(slog.New(slog.NewTextHandler(&log, nil)), func() time.Time { return now })
	address := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 7}
	for range 1000 {
		r.add(address, ErrNotTandem)
	}
	if n := strings.Count(log.String(), "\n"); n != refusalsPerInterval || r.count() != 1000 {
		t.Errorf("%d lines of %d refusals", n, r.count())
	}
	now = now.Add(refusalInterval)
	r.add(address, ErrNotTandem)
	if !strings.Contains(log.String(), "suppressed=990") {
		t.Errorf("log: %s", log.String())
	}
}
