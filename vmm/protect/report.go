package protect

import (
	"fmt"
	"strings"
	"time"

	"tandem/lockstep/pair"
	"tandem/vmm"
)

// event tells people something.
func (h *Host) event(alarm bool, text string) {
	if alarm {
		h.c.Log.Warn(text, "guest", h.c.Guest)
	} else {
		h.c.Log.Info(text, "guest", h.c.Guest)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.status.Events) == keptEvents {
		h.status.Events = append([]Event(nil), h.status.Events[1:]...)
	}
	h.status.Events = append(h.status.Events, Event{At: time.Now(), Alarm: alarm, Text: text})
}

// failedOver keeps the timeline of a failover.
func (h *Host) failedOver(t *timeline) {
	f := &Failover{At: time.Now(), Cause: t.cause, Steps: t.steps, TotalMS: milliseconds(t.last.Sub(t.from))}
	h.mu.Lock()
	h.status.LastFailover = f
	h.mu.Unlock()
	var parts []string
	for _, s := range f.Steps {
		parts = append(parts, fmt.Sprintf("%s %.0f ms", s.Name, s.MS))
	}
	h.event(false, fmt.Sprintf("the guest goes on without its peer %.0f ms after that was last heard: %s", f.TotalMS, strings.Join(parts, ", ")))
}

// progress tells how far a state transfer is.
func (t *transfer) progress() Transfer {
	return Transfer{
		Round: t.round.Load(), Pages: t.pages.Load(), SamePages: t.samePages.Load(), PagesTotal: t.g.m.Memory().Size() >> 12, Bytes: t.bytes.Load(), Dirty: t.dirty.Load(),
		DiskBytes: uint64(t.diskDone.Load()), DiskTotal: uint64(t.diskOf.Load()),
		DiskSent: uint64(t.diskSent.Load()), DiskSame: uint64(t.diskSame.Load()),
		ElapsedMS: milliseconds(time.Since(t.started)), StopMS: float64(t.stopNS.Load()) / 1e6,
	}
}

// transferred says that a state transfer is complete.
func (h *Host) transferred(t *transfer) {
	p := t.progress()
	h.mu.Lock()
	h.status.LastTransfer = &p
	h.mu.Unlock()
	if h.c.Progress != nil {
		h.c.Progress(p)
	}
	h.event(false, fmt.Sprintf("the state transfer took %.0f ms in %d rounds, %d MiB; the guest stood still for %.1f ms", p.ElapsedMS, p.Round, p.Bytes>>20, p.StopMS))
	sent, all := p.Content()
	divergences := h.node.Status().Divergences
	switch {
	case divergences > h.healed:
		h.event(false, fmt.Sprintf("the backup's divergence is healed by a delta of %.1f MiB of %.1f MiB", mebibytes(sent), mebibytes(all)))
	case sent < all:
		h.event(false, fmt.Sprintf("the backup was brought up to date by a delta of %.1f MiB of %.1f MiB", mebibytes(sent), mebibytes(all)))
	}
	h.healed = divergences
}

func mebibytes(bytes uint64) float64 { return float64(bytes) / (1 << 20) }

// progressEvery is how often Config.Progress is called.
const progressEvery = 100 * time.Millisecond

// machine returns this host's machine, or nil.
func (h *Host) machine() *vmm.Machine {
	switch {
	case h.guest != nil:
		return h.guest.m
	case h.replica != nil:
		return h.replica.machine.Load()
	}
	return nil
}

// publish brings the status up to date for those who ask.
func (h *Host) publish(st pair.Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &h.status
	s.Role, s.State, s.Term = st.Role.String(), st.State.String(), st.Term
	s.Log.Records, s.Log.Received, s.Log.Verified = st.Logged, st.Received, st.Verified
	s.Log.LagRecords = 0
	switch {
	case st.Role == pair.Backup && st.Received > st.Verified:
		s.Log.LagRecords = st.Received - st.Verified
	case st.Role == pair.Primary && st.Gated && st.Logged > st.Verified:
		s.Log.LagRecords = st.Logged - st.Verified
	}
	s.Divergences = st.Divergences
	s.Output.Held, s.Output.Pace = st.HeldOutputs, paceNames[st.Pace]
	s.Peer = nil
	if c := h.conns.open[st.Conn]; c != nil {
		peer := c.link.Peer()
		s.Peer = &Peer{Name: peer.Name, Address: c.link.RemoteAddr().String(), Fingerprint: peer.Fingerprint}
	}
	s.Transfer = nil
	if h.guest != nil && h.guest.sync != nil {
		p := h.guest.sync.progress()
		s.Transfer = &p
		if h.c.Progress != nil && time.Since(h.progressed) >= progressEvery {
			h.progressed = time.Now()
			h.c.Progress(p)
		}
	}
	if m := h.machine(); m != nil {
		position, now := m.Place()
		s.Position, s.GuestTimeNS = uint64(position), now
	}
}

var paceNames = map[pair.Speed]string{pair.Full: "full", pair.Slow: "slow", pair.Stalled: "stalled"}

// Status tells how the host's part is. It may be called from any goroutine.
func (h *Host) Status() Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.status
	s.Guest, s.Listen, s.Release = h.c.Guest, h.c.Listen, releaseNames[h.c.Rule]
	s.UptimeMS = time.Since(h.started).Milliseconds()
	s.Events = append([]Event{}, s.Events...)
	m := &h.meter
	m.turn()
	s.Log.Bytes = m.bytes
	sum := uint64(0)
	for _, n := range m.rate {
		sum += n
	}
	s.Log.BytesPerSecond = float64(sum) / rateOver.Seconds()
	s.Log.LagMS = milliseconds(m.lag(s.Log.Verified))
	if s.Log.LagRecords == 0 {
		s.Log.LagMS = 0
	}
	s.Output.Released = m.outputs
	s.Output.DelayMedianUS, s.Output.DelayP99US = m.quantiles()
	s.Divergences = max(s.Divergences, m.divergences)
	return s
}

var releaseNames = map[pair.Rule]string{pair.RuleReceived: "received", pair.RuleVerified: "verified"}
