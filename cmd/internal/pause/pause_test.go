package pause

import (
	"testing"
	"time"
)

// clock is advanced by hand.
type clock struct{ t time.Time }

func (c *clock) now() time.Time          { return c.t }
func (c *clock) advance(d time.Duration) { c.t = c.t.Add(d) }

func TestLongest(t *testing.T) {
	c := &clock{time.Unix(1, 0)}
	m := Meter{Now: c.now}
	want := func(longest, pending time.Duration) {
		t.Helper()
		if l, p := m.Longest(); l != longest || p != pending {
			t.Errorf("longest %v, pending %v; want %v, %v", l, p, longest, pending)
		}
	}
	want(0, 0)
	m.Begin()
	c.advance(time.Second)
	want(time.Second, time.Second)
	m.End()
	c.advance(time.Hour) // nobody waits
	want(time.Second, 0)
	m.Begin()
	c.advance(time.Millisecond)
	m.End()
	want(time.Second, 0)
	m.Mark()
	want(0, 0)
	m.Begin()
	c.advance(2 * time.Second)
	m.Mark() // the request is still waited for
	want(2*time.Second, 2*time.Second)
	m.End()
	want(2*time.Second, 0)
	if w := m.Waits(); w.Count() != 3 {
		t.Errorf("%d waits, want 3", w.Count())
	}
}

func TestQuantile(t *testing.T) {
	var w, other Waits
	if w.Quantile(0.5) != 0 {
		t.Error("a quantile of nothing")
	}
	for i := 1; i <= 100; i++ {
		part := &w
		if i%2 == 0 {
			part = &other
		}
		part.add(time.Duration(i) * time.Millisecond)
	}
	w.Add(other)
	for _, tt := range []struct {
		q    float64
		want time.Duration
	}{{0.01, time.Millisecond}, {0.5, 50 * time.Millisecond}, {0.99, 99 * time.Millisecond}, {1, 100 * time.Millisecond}} {
		got := w.Quantile(tt.q)
		if got < tt.want || float64(got) > 1.06*float64(tt.want) {
			t.Errorf("quantile %v is %v, want %v and 5 %% at most", tt.q, got, tt.want)
		}
	}
	for _, extreme := range []time.Duration{-time.Second, 0, 1, 1 << 62} {
		w.add(extreme) // must have a bucket
	}
	if w.Count() != 104 {
		t.Errorf("%d waits, want 104", w.Count())
	}
}
