package imapload

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

const (
	sessions = 8
	deadline = time.Minute
)

func config(f *fakeServer, seed uint64) Config {
	return Config{
		Dial: f.dial, Address: f.address, Sessions: sessions, Run: "r1", Seed: seed, BodyBytes: 300,
		User: func(i int) (string, string) { return fmt.Sprintf("user%d", i), "secret" },
	}
}

func startLoad(ctx context.Context, t *testing.T, f *fakeServer) *Load {
	t.Helper()
	l, err := Start(ctx, config(f, 1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Stop(ctx) })
	return l
}

// until polls until the snapshot is as wanted.
func until(ctx context.Context, t *testing.T, l *Load, what string, done func(Snapshot) bool) Snapshot {
	t.Helper()
	for {
		s := l.Snapshot()
		if done(s) {
			return s
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not %s within %v: %+v", what, deadline, s.Sessions)
		case <-time.After(time.Millisecond):
		}
	}
}

// busy tells that each session has done everything at least once, or is broken.
func busy(s Snapshot) bool {
	for _, one := range s.Sessions {
		if one.Broken == "" && (one.Appends < 5 || one.Fetches == 0 || one.Searches == 0) {
			return false
		}
	}
	return true
}

func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	return ctx
}

func verify(ctx context.Context, t *testing.T, l *Load) *Verification {
	t.Helper()
	l.Stop(ctx)
	v, err := l.Verify(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestGoodServer(t *testing.T) {
	ctx, f := limited(t), startFake(t)
	l := startLoad(ctx, t, f)
	until(ctx, t, l, "busy", busy)
	l.Stop(ctx)
	s := l.Snapshot()
	all, appends := s.Requests()
	if s.Broken() != 0 || appends < 5*sessions || uint64(all) != s.Waits.Count() {
		t.Errorf("%d broken, %d requests, %d appends, %d waits", s.Broken(), all, appends, s.Waits.Count())
	}
	for i, longest := range s.Longest() {
		if longest <= 0 || s.Sessions[i].Pending != 0 {
			t.Errorf("session %d: longest pause %v, pending %v", i, longest, s.Sessions[i].Pending)
		}
	}
	if v := verify(ctx, t, l); v.Found != appends || v.Acknowledged != appends || v.Unacknowledged != 0 || len(v.Faults) != 0 {
		t.Errorf("verification gives %+v, want %d messages and no fault", v, appends)
	}
	l.Mark()
	if s := l.Snapshot(); s.Longest()[0] != 0 {
		t.Errorf("after a mark the longest pause is %v", s.Longest()[0])
	}
}

// TestOtherRun checks that messages of an earlier load on the same mailboxes are left alone.
func TestOtherRun(t *testing.T) {
	ctx, f := limited(t), startFake(t)
	first := startLoad(ctx, t, f)
	until(ctx, t, first, "busy", busy)
	first.Stop(ctx)
	cfg := config(f, 2)
	cfg.Run = "r10"
	second, err := Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	until(ctx, t, second, "busy", busy)
	for _, l := range []*Load{first, second} {
		if v := verify(ctx, t, l); len(v.Faults) != 0 || v.Found != v.Acknowledged {
			t.Errorf("verification gives %+v", v)
		}
	}
}

// TestFaultsAtTheEnd checks that Verify finds what became wrong with no client looking.
func TestFaultsAtTheEnd(t *testing.T) {
	forge := func(id, body string) string { return "Message-ID: <" + id + ">\r\n\r\n" + body }
	tests := []struct {
		name   string
		change func(texts []string) []string
		fault  string
		lost   int // of each mailbox
	}{
		{"lost", func(s []string) []string { return s[1:] }, "was acknowledged and is not there", 1},
		{"rolled back", func(s []string) []string { return s[:len(s)-3] }, "was acknowledged and is not there", 3},
		{"twice", func(s []string) []string { return append(s, s[0]) }, "is there 2 times", 1},
		{"one letter", func(s []string) []string { return append([]string{s[0][:len(s[0])-3] + "!\r\n"}, s[1:]...) }, "another content", 1},
		{"swapped bodies", func(s []string) []string {
			return append([]string{forge(idOf(s[0]), s[1])}, s[1:]...)
		}, "another content", 1},
		{"foreign", func(s []string) []string {
			id := messageID("r1", 0, 1_000_000)
			return append(s, message(id, 300))
		}, "was never sent here", 0},
		{"no identifier", func(s []string) []string { return append(s, "Subject: x\r\n\r\n") }, "without an identifier", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, f := limited(t), startFake(t)
			l := startLoad(ctx, t, f)
			until(ctx, t, l, "busy", busy)
			l.Stop(ctx)
			f.change(tt.change)
			v := verify(ctx, t, l)
			if len(v.Faults) == 0 || !strings.Contains(v.Faults[0], tt.fault) || v.Acknowledged-v.Found != tt.lost*sessions {
				t.Errorf("found %d of %d; faults %.300q, want %q", v.Found, v.Acknowledged, v.Faults, tt.fault)
			}
		})
	}
}

// TestFaultsInSession checks that a session notices itself what the server owes it.
func TestFaultsInSession(t *testing.T) {
	tests := []struct {
		name   string
		server func(f *fakeServer)
		broken string
	}{
		{"lost", func(f *fakeServer) { f.keep = func(string) []string { return nil } }, "finds []"},
		{"twice", func(f *fakeServer) { f.keep = func(s string) []string { return []string{s, s} } }, "finds ["},
		{"other content", func(f *fakeServer) { f.spoil = strings.ToUpper }, "another content"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, f := limited(t), startFake(t)
			tt.server(f)
			l := startLoad(ctx, t, f)
			s := until(ctx, t, l, "broken", func(s Snapshot) bool { return s.Broken() == sessions })
			for i, one := range s.Sessions {
				if !strings.Contains(one.Broken, tt.broken) {
					t.Errorf("session %d: %q, want %q", i, one.Broken, tt.broken)
				}
			}
		})
	}
}

// TestBrokenConnection checks that a session that is cut off stays so, and that the others go on.
func TestBrokenConnection(t *testing.T) {
	ctx, f := limited(t), startFake(t)
	l := startLoad(ctx, t, f)
	until(ctx, t, l, "busy", busy)
	f.cut(3)
	s := until(ctx, t, l, "broken", func(s Snapshot) bool { return s.Broken() == 1 })
	before, _ := s.Requests()
	s = until(ctx, t, l, "going on", func(s Snapshot) bool { all, _ := s.Requests(); return all > before+100 })
	if s.Broken() != 1 || len(f.conns) != sessions {
		t.Errorf("%d sessions are broken and %d connections were made, want 1 and %d", s.Broken(), len(f.conns), sessions)
	}
	if v := verify(ctx, t, l); len(v.Faults) != 0 || v.Unacknowledged > 1 {
		t.Errorf("verification gives %+v", v)
	}
}

// TestStalledServer checks that what never comes is seen while it is waited for, and that Stop ends the wait.
func TestStalledServer(t *testing.T) {
	ctx, f := limited(t), startFake(t)
	stall := make(chan struct{})
	f.keep = func(s string) []string { <-stall; return []string{s} }
	l := startLoad(ctx, t, f)
	until(ctx, t, l, "waiting", func(s Snapshot) bool {
		for _, one := range s.Sessions {
			if one.Pending < time.Millisecond || one.Longest < one.Pending {
				return false
			}
		}
		return true
	})
	now, cancel := context.WithCancel(ctx)
	cancel()
	l.Stop(now)
	close(stall)
	if s := l.Snapshot(); s.Broken() != sessions {
		t.Errorf("%d sessions are broken, want all", s.Broken())
	}
}

func TestStartFails(t *testing.T) {
	ctx, f := limited(t), startFake(t)
	wrong := config(f, 1)
	wrong.User = func(i int) (string, string) {
		return "somebody", map[bool]string{true: "wrong", false: "secret"}[i == 5]
	}
	if _, err := Start(ctx, wrong); err == nil || !strings.Contains(err.Error(), "session 6 (somebody) can't log in") {
		t.Errorf("with a wrong password: %v", err)
	}
	nobody := config(f, 1)
	nobody.Address = "127.0.0.1:1"
	if _, err := Start(ctx, nobody); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("without a server: %v", err)
	}
	slow := config(f, 1)
	slow.Think = time.Hour
	if _, err := Start(ctx, slow); err == nil || !strings.Contains(err.Error(), "can't think") {
		t.Errorf("with an endless pause: %v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := Start(gone, config(f, 1)); err == nil {
		t.Error("after its context's end: no error")
	}
}
