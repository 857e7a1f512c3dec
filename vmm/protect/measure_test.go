package protect

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"tandem/lockstep"
	"tandem/lockstep/pair"
	"tandem/vmm"
	"tandem/vmm/netdev/frame"
)

func TestDelays(t *testing.T) {
	h := &Host{started: time.Now()}
	h.meter.host = h
	for n := range 10_000 { // only the latest count
		d := time.Hour
		if n >= 10_000-keptDelays {
			d = time.Duration(n-(10_000-keptDelays)) * time.Microsecond
		}
		h.meter.released(d)
	}
	median, p99 := h.meter.quantiles()
	if median != keptDelays/2 || p99 != keptDelays*99/100 {
		t.Errorf("median %v, 99th percentile %v µs", median, p99)
	}
}

func TestLag(t *testing.T) {
	h := &Host{started: time.Now()}
	h.meter.host = h
	for n := uint64(1); n <= 3*keptMarks; n++ {
		h.meter.logged(n, 1)
	}
	if len(h.meter.marks) > keptMarks {
		t.Errorf("%d marks are kept", len(h.meter.marks))
	}
	h.meter.marks[len(h.meter.marks)-1].at = time.Now().Add(-time.Minute)
	if lag := h.meter.lag(3*keptMarks - 1); lag < time.Minute || lag > 2*time.Minute {
		t.Errorf("the lag is %v", lag)
	}
	if lag := h.meter.lag(3 * keptMarks); lag != 0 {
		t.Errorf("a backup that has executed everything lags by %v", lag)
	}
	if h.meter.bytes != 3*keptMarks {
		t.Errorf("%d bytes", h.meter.bytes)
	}
}

// A loss is told by its steps, whatever way the pair takes.
func TestTimeline(t *testing.T) {
	tests := map[string]struct {
		states []pair.State
		steps  []string
	}{
		"takes over":          {[]pair.State{pair.Protected, pair.Contending, pair.Draining, pair.Live, pair.Alone}, []string{"detection", "arbitration", "drain", "go live"}},
		"without an arbiter":  {[]pair.State{pair.Protected, pair.Draining, pair.Live, pair.Alone}, []string{"detection", "arbitration", "drain", "go live"}},
		"loses its backup":    {[]pair.State{pair.Protected, pair.Contending, pair.Alone}, []string{"detection", "arbitration"}},
		"waits for an answer": {[]pair.State{pair.Protected, pair.Contending, pair.Paused, pair.Alone}, []string{"detection", "arbitration"}},
		"is fenced":           {[]pair.State{pair.Protected, pair.Contending, pair.Fenced, pair.Joining}, nil},
		"never had a backup":  {[]pair.State{pair.Joining, pair.Alone, pair.Syncing, pair.Alone}, nil},
	}
	for name, test := range tests {
		h := newQuietHost()
		h.times.heard = time.Now()
		for i := 1; i < len(test.states); i++ {
			h.times.note(h, test.states[i-1], test.states[i])
		}
		var steps []string
		if f := h.status.LastFailover; f != nil {
			sum := 0.0
			for _, s := range f.Steps {
				steps = append(steps, s.Name)
				sum += s.MS
			}
			if diff := f.TotalMS - sum; diff > 1 || diff < -1 {
				t.Errorf("%s: %v ms in all, the steps are %v", name, f.TotalMS, f.Steps)
			}
		}
		if len(steps) != len(test.steps) {
			t.Errorf("%s: steps %v, want %v", name, steps, test.steps)
			continue
		}
		for i, s := range test.steps {
			if steps[i] != s {
				t.Errorf("%s: steps %v, want %v", name, steps, test.steps)
			}
		}
	}
}

// packetOf returns what a network device puts out: a frame from a sender behind a header.
func packetOf(kind uint16, at int, sender netip.Addr) vmm.Output {
	p := make([]byte, frame.HeaderBytes+64)
	f := p[frame.HeaderBytes:]
	binary.BigEndian.PutUint16(f[etherType:], kind)
	copy(f[at:], sender.AsSlice())
	return vmm.Output{Kind: lockstep.KindFrame, Device: 1, Data: p}
}

func TestAddressesAreLearned(t *testing.T) {
	var a addresses
	v4, v6 := netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fe80::1")
	for _, o := range []vmm.Output{
		packetOf(typeARP, arpSender, v4), packetOf(typeIPv4, ipv4Source, v4), packetOf(typeIPv6, ipv6Source, v6),
		packetOf(typeIPv4, ipv4Source, netip.IPv4Unspecified()), packetOf(0x88cc, ipv4Source, netip.MustParseAddr("9.9.9.9")),
		{Kind: lockstep.KindConsole, Device: 1, Data: packetOf(typeIPv4, ipv4Source, netip.MustParseAddr("8.8.8.8")).Data},
		{Kind: lockstep.KindFrame, Device: 1, Data: []byte("short")},
	} {
		a.learn(o)
	}
	if len(a.seen) != 2 || len(a.seen[1]) != 2 || a.seen[1][0] != v4 || a.seen[1][1] != v6 {
		t.Errorf("learned %v", a.seen)
	}
	for i := range byte(100) {
		a.learn(packetOf(typeIPv4, ipv4Source, netip.AddrFrom4([4]byte{10, 0, 0, i + 1})))
	}
	if len(a.seen[1]) != maxAddresses {
		t.Errorf("%d addresses are kept", len(a.seen[1]))
	}
}

func FuzzSender(f *testing.F) {
	f.Add(packetOf(typeARP, arpSender, netip.MustParseAddr("10.1.2.3")).Data)
	f.Add(packetOf(typeIPv6, ipv6Source, netip.MustParseAddr("fe80::1")).Data)
	f.Fuzz(func(_ *testing.T, p []byte) {
		var a addresses
		a.learn(vmm.Output{Kind: lockstep.KindFrame, Data: p})
	})
}

func FuzzPreface(f *testing.F) {
	f.Add([]byte("\x0c\x00\x00\x00{\"disks\":[]}"))
	f.Add([]byte("\xff\xff\xff\xff{}"))
	f.Fuzz(func(t *testing.T, p []byte) {
		got, err := readPreface(bytes.NewReader(p))
		if (err == nil) != (got != nil) {
			t.Errorf("%v, %v", got, err)
		}
	})
}

// newQuietHost returns a host that does nothing but remember.
func newQuietHost() *Host {
	h := &Host{started: time.Now(), c: Config{Log: slog.New(slog.DiscardHandler)}}
	h.meter.host = h
	return h
}
