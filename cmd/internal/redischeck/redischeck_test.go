package redischeck

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	clients  = 4
	deadline = time.Minute
)

func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	return ctx
}

func startCheck(ctx context.Context, t *testing.T, f *fakeServer) *Check {
	t.Helper()
	c, err := Start(ctx, Config{Dial: f.dial, Address: f.address, Clients: clients, Run: "r1", Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Stop(ctx) })
	return c
}

// until polls until the snapshot is as wanted.
func until(ctx context.Context, t *testing.T, c *Check, what string, done func(Snapshot) bool) Snapshot {
	t.Helper()
	for {
		s := c.Snapshot()
		if done(s) {
			return s
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not %s within %v: %+v", what, deadline, s.Clients)
		case <-time.After(time.Millisecond):
		}
	}
}

// busy tells that each client has written and read.
func busy(s Snapshot) bool {
	return !slices.ContainsFunc(s.Clients, func(c ClientState) bool { return c.Writes < 30 || c.Reads < 30 })
}

func verify(ctx context.Context, t *testing.T, c *Check) *Verification {
	t.Helper()
	c.Stop(ctx)
	v, err := c.Verify(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestGoodServer(t *testing.T) {
	ctx, f := limited(t), startFake(t)
	c := startCheck(ctx, t, f)
	until(ctx, t, c, "busy", busy)
	c.Stop(ctx)
	s := c.Snapshot()
	writes := 0
	for _, one := range s.Clients {
		writes += one.Writes
	}
	if len(s.Broken()) != 0 || s.Longest() <= 0 || uint64(s.Requests()) != s.Waits.Count() {
		t.Errorf("broken: %q; longest pause %v; %d requests, %d waits", s.Broken(), s.Longest(), s.Requests(), s.Waits.Count())
	}
	if v := verify(ctx, t, c); v.Acknowledged != writes || v.Unacknowledged != 0 || len(v.Faults) != 0 {
		t.Errorf("verification gives %+v, want %d writes and no fault", v, writes)
	}
}

// TestFaultsInFlight checks that clients notice by themselves what the server owes them.
func TestFaultsInFlight(t *testing.T) {
	// After so many requests the server begins to misbehave.
	const good = 200
	lose := func(name string) func(*fakeServer) func([]string) int {
		return func(*fakeServer) func([]string) int {
			return func(args []string) int {
				if strings.EqualFold(args[0], name) {
					return 0
				}
				return 1
			}
		}
	}
	twice := func(name string) func(*fakeServer) func([]string) int {
		return func(*fakeServer) func([]string) int {
			return func(args []string) int {
				if strings.EqualFold(args[0], name) {
					return 2
				}
				return 1
			}
		}
	}
	tests := []struct {
		name   string
		faulty func(f *fakeServer) func(args []string) int
		broken string
	}{
		{"lost SET", lose("SET"), "lost or rolled back"},
		{"lost INCR", lose("INCR"), "lost or rolled back"},
		{"lost RPUSH", lose("RPUSH"), "lost or rolled back"},
		{"INCR twice", twice("INCR"), "done twice"},
		{"RPUSH twice", twice("RPUSH"), "done twice"},
		{"roll back", func(f *fakeServer) func([]string) int {
			var old *saved
			left := good
			return func([]string) int {
				if old == nil {
					s := f.save()
					old = &s
				}
				if left--; left == 0 {
					f.restore(*old)
				}
				return 1
			}
		}, "lost or rolled back"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, f := limited(t), startFake(t)
			faulty := tt.faulty(f)
			f.intercept = func(args []string) int {
				if f.served <= good {
					return 1
				}
				return faulty(args)
			}
			c := startCheck(ctx, t, f)
			s := until(ctx, t, c, "broken", func(s Snapshot) bool { return len(s.Broken()) > 0 })
			if broken := s.Broken(); !strings.Contains(broken[0], tt.broken) {
				t.Errorf("broken: %q, want %q", broken, tt.broken)
			}
		})
	}
}

// TestFaultsAtTheEnd checks that Verify finds what became wrong with no client looking.
func TestFaultsAtTheEnd(t *testing.T) {
	tests := []struct {
		name   string
		change func(f *fakeServer)
		fault  string
	}{
		{"register lost", func(f *fakeServer) { delete(f.texts, "check:r1:2:register") }, "is at 0 although"},
		{"register ahead", func(f *fakeServer) { f.texts["check:r1:2:register"] = "100000" }, "were sent"},
		{"counter behind", func(f *fakeServer) { f.texts["check:r1:0:counter"] = "1" }, "is at 1 although"},
		{"counter ahead", func(f *fakeServer) { f.texts["check:r1:0:counter"] += "0" }, "were sent"},
		{"list shorter", func(f *fakeServer) { l := f.lists["check:r1:1:list"]; f.lists["check:r1:1:list"] = l[:len(l)-1] }, "was acknowledged"},
		{"list with a hole", func(f *fakeServer) { f.lists["check:r1:1:list"][1] = "1" }, `has "1" in place 2`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, f := limited(t), startFake(t)
			c := startCheck(ctx, t, f)
			until(ctx, t, c, "busy", busy)
			c.Stop(ctx)
			tt.change(f)
			if v := verify(ctx, t, c); len(v.Faults) != 1 || !strings.Contains(v.Faults[0], tt.fault) {
				t.Errorf("faults %q, want one with %q", v.Faults, tt.fault)
			}
		})
	}
}

// TestBrokenConnection checks that nobody connects a second time, and that what was not answered may be there or not.
func TestBrokenConnection(t *testing.T) {
	for name, times := range map[string]int{"before the write": 0, "after the write": 1} {
		t.Run(name, func(t *testing.T) {
			ctx, f := limited(t), startFake(t)
			c := startCheck(ctx, t, f)
			until(ctx, t, c, "busy", busy)
			f.mu.Lock()
			f.intercept = func([]string) int {
				for _, conn := range f.conns {
					_ = conn.Close()
				}
				f.intercept = nil
				return times
			}
			f.mu.Unlock()
			s := until(ctx, t, c, "broken", func(s Snapshot) bool { return len(s.Broken()) == clients })
			if len(f.conns) != clients {
				t.Errorf("%d connections were made, want %d", len(f.conns), clients)
			}
			if v := verify(ctx, t, c); len(v.Faults) != 0 || v.Unacknowledged > clients {
				t.Errorf("verification gives %+v after %q", v, s.Broken())
			}
		})
	}
}

func TestStalledServer(t *testing.T) {
	ctx, f := limited(t), startFake(t)
	c := startCheck(ctx, t, f)
	until(ctx, t, c, "busy", busy)
	f.mu.Lock() // nobody is answered
	until(ctx, t, c, "waiting", func(s Snapshot) bool {
		return !slices.ContainsFunc(s.Clients, func(c ClientState) bool { return c.Pending < time.Millisecond })
	})
	c.Mark()
	if s := c.Snapshot(); s.Longest() < time.Millisecond {
		t.Errorf("the longest pause is %v while all wait", s.Longest())
	}
	now, cancel := context.WithCancel(ctx)
	cancel()
	c.Stop(now)
	f.mu.Unlock()
	if s := c.Snapshot(); len(s.Broken()) != clients {
		t.Errorf("broken: %q, want all", s.Broken())
	}
}

func TestStartFails(t *testing.T) {
	ctx := limited(t)
	if _, err := Start(ctx, Config{Dial: startFake(t).dial, Address: "127.0.0.1:1", Clients: 1}); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("without a server: %v", err)
	}
}

// TestLoadingServer checks that a server which is loading is waited for, with the one connection that a client has.
func TestLoadingServer(t *testing.T) {
	ctx, f := limited(t), startFake(t)
	f.loading = 3
	c := startCheck(ctx, t, f)
	until(ctx, t, c, "busy", busy)
	if v := verify(ctx, t, c); len(v.Faults) != 0 || f.loading != 0 {
		t.Errorf("%+v; still loading for %d requests", v, f.loading)
	}
}

func TestRegister(t *testing.T) {
	var r register
	if err := r.read(r.least(), 0); err != nil {
		t.Errorf("before any write: %v", err)
	}
	r.send()
	least := r.least() // a read is sent while the write is under way
	for _, got := range []uint64{0, 1} {
		if err := r.read(least, got); err != nil {
			t.Errorf("while the first write is under way a read gives %d: %v", got, err)
		}
	}
	if err := r.read(r.least(), 0); err == nil {
		t.Error("a read gives 0 after another gave 1: no error")
	}
	if err := r.read(0, 2); err == nil {
		t.Error("a read gives what was never sent: no error")
	}
	r.acknowledge()
	least = r.least()
	r.send()
	r.acknowledge()
	if err := r.read(least, 1); err != nil {
		t.Errorf("an old read that ends late: %v", err)
	}
	if err := r.read(r.least(), 1); err == nil {
		t.Error("an acknowledged write is rolled back: no error")
	}
}
