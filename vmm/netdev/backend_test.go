package netdev

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/devices/virtio"
	"tandem/vmm/netdev/frame"
)

const deadline = 30 * time.Second

var errEnded = errors.New("ended")

// machine takes what a back end posts.
type machine struct {
	packets chan []byte
	ended   chan struct{}
	once    sync.Once
}

func newMachine() *machine { return &machine{packets: make(chan []byte), ended: make(chan struct{})} }

func (m *machine) post(p []byte) error {
	select {
	case m.packets <- p:
		return nil
	case <-m.ended:
		return errEnded
	}
}

func (m *machine) end() { m.once.Do(func() { close(m.ended) }) }

// next returns the first packet of which ok is true.
func (m *machine) next(t *testing.T, ok func(p []byte) bool) []byte {
	t.Helper()
	late := time.After(deadline)
	for {
		select {
		case p := <-m.packets:
			if ok(p) {
				return p
			}
		case <-late:
			t.Fatal("no such packet came")
		}
	}
}

func broadcast(text string) []byte {
	f := append(bytes.Repeat([]byte{0xff}, 6), 2, 0, 0, 0, 0, 1, 0x88, 0xb5) // an EtherType for experiments
	return frame.Plain(append(f, text...))
}

func says(text string) func([]byte) bool {
	return func(p []byte) bool { return bytes.HasSuffix(p, []byte(text)) }
}

// lines is a log that a test reads.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), s)
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func discard() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// open opens a back end that the test closes at its end.
func open(t *testing.T, text string, m *machine, log *slog.Logger) Backend {
	t.Helper()
	c, err := Parse(text, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open(c, m.post, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.end()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// until waits for something that happens in another goroutine.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	late := time.Now().Add(deadline)
	for !ok() {
		if time.Now().After(late) {
			t.Fatalf("it did not happen: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestNone(t *testing.T) {
	b := open(t, "none", newMachine(), discard())
	b.Output(broadcast("x"))
	b.SetOffloads(virtio.Offloads{Checksum: true})
	if b.Offers() != (Offers{}) {
		t.Error("nothing offers something")
	}
}

func TestUser(t *testing.T) {
	m := newMachine()
	b := open(t, "user,forward=0:22", m, discard())
	if b.Offers() != (Offers{Checksum: true, TSO: true}) {
		t.Errorf("offers %+v", b.Offers())
	}
	// Who has 10.0.2.2?
	arp := append(bytes.Repeat([]byte{0xff}, 6), 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2)
	b.Output(frame.Plain(arp))
	m.next(t, func(p []byte) bool {
		f := p[frame.HeaderBytes:]
		return bytes.Equal(p[:frame.HeaderBytes], make([]byte, frame.HeaderBytes)) && f[12] == 8 && f[13] == 6 && bytes.Equal(f[28:32], []byte{10, 0, 2, 2})
	})
}

func TestUserPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := Parse("user,forward="+l.Addr().String()+":22", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = Open(c, newMachine().post, discard()); err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("got %v", err)
	}
}

func TestHub(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub")
	h, err := NewHub(path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	var machines []*machine
	var backends []Backend
	for range 3 {
		m := newMachine()
		machines = append(machines, m)
		backends = append(backends, open(t, "hub,path="+path, m, discard()))
	}
	until(t, "all are on the hub", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.ports) == 3
	})
	backends[0].Output(broadcast("one"))
	for _, m := range machines[1:] {
		if got := m.next(t, says("one")); !bytes.Equal(got, broadcast("one")) {
			t.Errorf("got %q", got)
		}
	}
	// What a machine sends does not come back to it: the next that it gets is another's.
	backends[1].Output(broadcast("two"))
	if got := machines[0].next(t, func([]byte) bool { return true }); !says("two")(got) {
		t.Errorf("got %q", got)
	}
}

func TestHubIsLostAndFound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub")
	h, err := NewHub(path)
	if err != nil {
		t.Fatal(err)
	}
	m, log := newMachine(), &lines{}
	b := open(t, "hub,path="+path, m, log.logger())
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, "the loss is reported", func() bool { return log.count("network is down") == 1 })
	for range 3 * maxQueuedPackets {
		b.Output(broadcast("lost"))
	}
	if h, err = NewHub(path); err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	until(t, "the hub is found again", func() bool { return log.count("network is back") == 1 })
	other := newMachine()
	o := open(t, "hub,path="+path, other, discard())
	until(t, "both are on the hub", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.ports) == 2
	})
	o.Output(broadcast("found"))
	m.next(t, says("found"))
	if log.count("network is down") != 1 {
		t.Error("the loss is reported more than once")
	}
}

// TestHubRefusesNonsense has a client that announces a frame of 4 GiB: it is hung up on.
func TestHubRefusesNonsense(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub")
	h, err := NewHub(path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(deadline))
	if _, err := conn.Write([]byte{0xff, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

func TestHubMissing(t *testing.T) {
	c, err := Parse("hub,path=/nonexistent/hub", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(c, newMachine().post, discard()); err == nil || !strings.Contains(err.Error(), "/nonexistent/hub") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
	if _, err := NewHub("/nonexistent/hub"); err == nil {
		t.Error("a hub was made nowhere")
	}
}

// TestOutputNeverWaits has a back end whose other side takes nothing.
func TestOutputNeverWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b := open(t, "hub,path="+path, newMachine(), discard())
	h := b.(*hubClient)
	for i := 0; h.queue.Dropped() == 0; i++ {
		if i > 1<<20 {
			t.Fatal("nothing is dropped: the queue has no bound")
		}
		b.Output(broadcast(strings.Repeat("x", 1400)))
	}
	b.Output(nil) // no packet at all
}

// udpFrame is a datagram to a host, with the checksum of its pseudo-header alone if partial (virtio 1.2 §5.1.6.2).
func udpFrame(dstMAC net.HardwareAddr, src, dst netip.AddrPort, payload string, partial bool) []byte {
	f := append(append([]byte{}, dstMAC...), 2, 0, 0, 0, 0, 1, 8, 0)
	ip := make([]byte, 20)
	ip[0], ip[8], ip[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(payload)))
	copy(ip[12:], src.Addr().AsSlice())
	copy(ip[16:], dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(ip[10:], ^sum(ip))
	u := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(u[0:], src.Port())
	binary.BigEndian.PutUint16(u[2:], dst.Port())
	binary.BigEndian.PutUint16(u[4:], uint16(8+len(payload)))
	u = append(u, payload...)
	p := frame.Plain(append(append(f, ip...), u...))
	if partial {
		pseudo := append(append([]byte{}, ip[12:20]...), 0, 17, 0, byte(len(u)))
		binary.BigEndian.PutUint16(p[frame.HeaderBytes+14+20+6:], sum(pseudo))
		p[0] = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
		binary.LittleEndian.PutUint16(p[6:], 14+20)
		binary.LittleEndian.PutUint16(p[8:], 6)
	}
	return p
}

// sum is the Internet checksum's sum (RFC 1071).
func sum(p []byte) uint16 {
	var s uint32
	for i := 0; i+1 < len(p); i += 2 {
		s += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	if len(p)%2 != 0 {
		s += uint32(p[len(p)-1]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

func TestPauseEndsEarly(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	done := make(chan struct{})
	go func() {
		pause(ctx)
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(deadline):
		t.Error("a closed client still waits")
	}
}
