package link

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience bounds waiting for what must happen; a busy machine is slow.
const patience = 30 * time.Second

// logBuffer is a log that a test reads.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// site is a listening host, its log, and the configurations of both hosts.
type site struct {
	listener       *Listener
	log            *logBuffer
	dialer, listen Config
}

func newSite(t testing.TB) *site {
	t.Helper()
	a, b := pairKeys(t, time.Now(), time.Hour)
	s := &site{log: &logBuffer{}}
	s.dialer = Config{Credentials: a, Version: 1, HandshakeTimeout: patience}
	s.listen = Config{Credentials: b, Version: 1, HandshakeTimeout: patience, Log: slog.New(slog.NewTextHandler(s.log, nil))}
	s.start(t)
	return s
}

func (s *site) start(t testing.TB) {
	t.Helper()
	l, err := Listen(t.Context(), "127.0.0.1:0", s.listen)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s.listener = l
}

func (s *site) address() string { return s.listener.Addr().String() }

// join makes a link and returns its two ends.
func (s *site) join(t testing.TB) (dialer, listener *Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	type result struct {
		conn *Conn
		err  error
	}
	accepted := make(chan result, 1)
	go func() {
		c, err := s.listener.Accept(ctx)
		accepted <- result{c, err}
	}()
	dialer, err := Dial(ctx, s.address(), s.dialer)
	if err != nil {
		t.Fatal(err)
	}
	r := <-accepted
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { dialer.Close(); r.conn.Close() })
	return dialer, r.conn
}

// eventually polls for a condition.
func eventually(condition func() bool) bool {
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); !condition(); <-ticker.C {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// until waits for a condition that must come true.
func until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	if !eventually(condition) {
		t.Fatalf("not in time: %s", what)
	}
}

func TestMessagesBothWays(t *testing.T) {
	s := newSite(t)
	a, b := s.join(t)
	if a.Peer().Name != "b" || b.Peer().Name != "a" || a.Peer().Fingerprint == b.Peer().Fingerprint {
		t.Errorf("peers %+v, %+v", a.Peer(), b.Peer())
	}
	large := bytes.Repeat([]byte("log"), DefaultMaxPayloadBytes/3)
	for _, way := range []struct{ from, to *Conn }{{a, b}, {b, a}} {
		go func() {
			way.from.Send(1, nil)
			way.from.Send(255, large)
			way.from.Send(2, []byte("last"))
			way.from.Flush()
		}()
		for _, want := range []struct {
			kind    uint8
			payload []byte
		}{{1, nil}, {255, large}, {2, []byte("last")}} {
			kind, payload, err := way.to.Receive()
			if err != nil || kind != want.kind || !bytes.Equal(payload, want.payload) {
				t.Fatalf("kind %d, %d bytes, %v; want kind %d", kind, len(payload), err, want.kind)
			}
		}
	}
	if err := a.Send(1, make([]byte, DefaultMaxPayloadBytes+1)); !errors.Is(err, ErrOversize) {
		t.Errorf("over the bound: %v", err)
	}
	if err := a.Send(1, nil); err != nil {
		t.Errorf("the link did not outlive a message that was not sent: %v", err)
	}
}

func TestSendBatchesUntilFlush(t *testing.T) {
	s := newSite(t)
	a, b := s.join(t)
	const messages = 1000
	for range messages {
		if err := a.Send(3, []byte("0123456789")); err != nil {
			t.Fatal(err)
		}
	}
	if w := a.Stats().Writes; w != 0 {
		t.Fatalf("%d writes before Flush", w)
	}
	for range 2 { // the second has nothing to do
		if err := a.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if got := a.Stats(); got.Writes != 1 || got.FramesSent != messages {
		t.Errorf("%+v", got)
	}
	for range messages {
		if _, _, err := b.Receive(); err != nil {
			t.Fatal(err)
		}
	}
	for range batchBytes / 10 { // a full batch goes out by itself
		if err := a.Send(3, []byte("0123456789")); err != nil {
			t.Fatal(err)
		}
	}
	if w := a.Stats().Writes; w < 2 {
		t.Errorf("%d writes after more than a batch", w)
	}
}

func TestOrderlyEndAndTornEnd(t *testing.T) {
	s := newSite(t)
	a, b := s.join(t)
	a.Close()
	if _, _, err := b.Receive(); err != io.EOF {
		t.Errorf("the peer closed: %v", err)
	}
	if _, _, err := a.Receive(); !errors.Is(err, ErrClosed) {
		t.Errorf("closed here: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	a, b = s.join(t)
	a.tls.NetConn().Close() // as a killed process does
	if _, _, err := b.Receive(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the peer died: %v", err)
	}
}

func TestCloseEndsAWaitingReceive(t *testing.T) {
	s := newSite(t)
	a, _ := s.join(t)
	ended := make(chan error)
	go func() {
		_, _, err := a.Receive()
		ended <- err
	}()
	a.Close()
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestSilentPeerTimesOut(t *testing.T) {
	s := newSite(t)
	s.dialer.ReadTimeout = 20 * time.Millisecond
	a, _ := s.join(t)
	var timeout net.Error
	if _, _, err := a.Receive(); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("got %v", err)
	}
}

func TestPeerThatTakesNothingTimesOut(t *testing.T) {
	s := newSite(t)
	s.dialer.WriteTimeout = 50 * time.Millisecond
	a, _ := s.join(t)
	var err error
	for i := 0; err == nil; i++ {
		if i == 1000 {
			t.Fatal("a gigabyte fitted between two ends that don't read")
		}
		err = a.Send(1, make([]byte, DefaultMaxPayloadBytes))
	}
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("got %v", err)
	}
	if again := a.Flush(); again == nil {
		t.Error("a broken link takes more")
	}
}

func TestConcurrentSendersKeepTheirFrames(t *testing.T) {
	s := newSite(t)
	a, b := s.join(t)
	const senders, each = 4, 500
	var working sync.WaitGroup
	for n := range senders {
		working.Go(func() {
			for i := range each {
				a.Send(uint8(n+1), bytes.Repeat([]byte{byte(n)}, i))
				a.Flush()
			}
		})
	}
	var next [senders + 1]int
	for range senders * each {
		kind, payload, err := b.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if len(payload) != next[kind] || len(bytes.Trim(payload, string([]byte{kind - 1}))) != 0 {
			t.Fatalf("sender %d: %d bytes, want %d", kind, len(payload), next[kind])
		}
		next[kind]++
	}
	working.Wait()
}

// TestPeersAreRefusedByName: whoever dials and is not the right peer learns why, and so does the listener's log.
func TestPeersAreRefusedByName(t *testing.T) {
	s := newSite(t)
	other, _ := pairKeys(t, time.Now(), time.Hour)
	tests := []struct {
		name   string
		change func(*Config)
		dialer error
		log    string
	}{
		{"key of another run of keygen", func(c *Config) { c.Credentials = other }, ErrWrongKey, "bad certificate"},
		{"older version", func(c *Config) { c.Version = 0 }, ErrWrongVersion, "tandem/0"},
		{"newer version", func(c *Config) { c.Version = 9 }, ErrWrongVersion, "tandem/9"},
		{"the listener's own key", func(c *Config) { c.Credentials = s.listen.Credentials }, ErrOwnKey, "bad certificate"},
		{"trusts the listener, is not trusted", func(c *Config) {
			c.Credentials = &Credentials{own: other.own, trust: s.dialer.Credentials.trust}
		}, ErrRefusedByPeer, "not in the trust file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			config := s.dialer
			tt.change(&config)
			before := s.listener.Refused()
			if _, err := Dial(t.Context(), s.address(), config); !errors.Is(err, tt.dialer) {
				t.Errorf("the dialer is told %v, want %v", err, tt.dialer)
			}
			until(t, "a refusal", func() bool { return s.listener.Refused() > before })
			until(t, "a line in the log", func() bool { return strings.Contains(s.log.String(), tt.log) })
		})
	}
	s.join(t)
}

func TestExpiredKeys(t *testing.T) {
	now := time.Now()
	oldA, _ := pairKeys(t, now.Add(-3*time.Hour), time.Hour)
	s := newSite(t)
	config := s.dialer
	config.Credentials = oldA
	if _, err := Dial(t.Context(), s.address(), config); !errors.Is(err, ErrExpiredKey) {
		t.Errorf("this host's: %v", err)
	}
	if _, err := Listen(t.Context(), "127.0.0.1:0", config); !errors.Is(err, ErrExpiredKey) {
		t.Errorf("the listener's own: %v", err)
	}
	// A listener that trusts a key whose time is over, and a dialer that does not look at its clock.
	s.listen.Credentials = &Credentials{own: s.listen.Credentials.own, trust: oldA.ownAsTrust()}
	s.start(t)
	_, err := tlsClient(t, s, oldA, "tandem/1")
	if err == nil {
		t.Error("accepted")
	}
	until(t, "the log to name it", func() bool { return strings.Contains(s.log.String(), "is not valid at this time") })
}

func TestDialGivesUp(t *testing.T) {
	s := newSite(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts in the kernel, answers nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	config := s.dialer
	config.HandshakeTimeout = 30 * time.Millisecond
	if _, err := Dial(t.Context(), silent.Addr().String(), config); !errors.Is(err, ErrHandshakeTimeout) {
		t.Errorf("a silent peer: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ctx, s.address(), s.dialer); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled context: %v", err)
	}
	silent.Close()
	if _, err := Dial(t.Context(), silent.Addr().String(), config); err == nil {
		t.Error("connected to nobody")
	}
}

func TestAcceptEnds(t *testing.T) {
	s := newSite(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.listener.Accept(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	s.listener.Close()
	if _, err := s.listener.Accept(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	a, _ := pairKeys(t, time.Now(), time.Hour)
	for _, c := range []Config{{}, {Credentials: a, MaxPayloadBytes: HighestMaxPayloadBytes + 1}, {Credentials: a, MaxPayloadBytes: -1},
		{Credentials: a, ReadTimeout: -1}} {
		if _, err := c.complete(); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}
