package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"tandem/cmd/internal/failover"
	"tandem/cmd/internal/imapload"
	"tandem/vmm/protect"
)

// demoView shows what happens: lines, and at a terminal a live table below them, one cell a session.
type demoView struct {
	out     io.Writer
	live    bool
	start   time.Time
	stop    chan struct{}
	ended   chan struct{}
	closing sync.Once

	mu    sync.Mutex
	load  *imapload.Load // nil until there are clients
	drawn int            // lines of the table that are on the screen
	part  []byte         // of a line written to the view as a log
	said  time.Time      // when a line about the clients was written
}

const (
	drawEvery = 300 * time.Millisecond
	// sayEvery is how often the clients are told of where there is no table.
	sayEvery = 5 * time.Second
	// cells is how many sessions a line of the table has.
	cells = 5
	// slow is from when on a request that waits is marked.
	slow = 500 * time.Millisecond
)

func newDemoView(out io.Writer) *demoView {
	f, ok := out.(*os.File)
	v := &demoView{out: out, live: ok && term.IsTerminal(int(f.Fd())), start: time.Now(), stop: make(chan struct{}), ended: make(chan struct{})}
	go v.run()
	return v
}

func (v *demoView) run() {
	defer close(v.ended)
	for {
		select {
		case <-v.stop:
			return
		case <-time.After(drawEvery):
		}
		v.mu.Lock()
		switch {
		case v.load == nil:
		case v.live:
			v.erase()
			v.draw()
		case time.Since(v.said) > sayEvery:
			v.said = time.Now()
			s := v.load.Snapshot()
			v.line(clientsText(&s))
		}
		v.mu.Unlock()
	}
}

// close leaves the last table where it is.
func (v *demoView) close() {
	v.closing.Do(func() { close(v.stop) })
	<-v.ended
}

// show begins to tell of clients.
func (v *demoView) show(l *imapload.Load) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.load = l
}

// note tells something.
func (v *demoView) note(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.erase()
	v.line(fmt.Sprintf(format, args...))
	if v.live && v.load != nil {
		v.draw()
	}
}

// Write takes lines of a log.
func (v *demoView) Write(p []byte) (int, error) {
	v.mu.Lock()
	v.part = append(v.part, p...)
	end := bytes.LastIndexByte(v.part, '\n')
	text := string(v.part[:max(0, end)])
	v.part = append([]byte(nil), v.part[end+1:]...)
	v.mu.Unlock()
	if end >= 0 {
		for line := range strings.SplitSeq(text, "\n") {
			v.note("%s", strings.TrimRight(line, "\r"))
		}
	}
	return len(p), nil
}

func (v *demoView) line(text string) {
	fmt.Fprintf(v.out, "%7.1f s  %s\n", time.Since(v.start).Seconds(), text)
}

// erase takes the table off the screen (ECMA-48: cursor up, erase to the end).
func (v *demoView) erase() {
	if v.drawn > 0 {
		fmt.Fprintf(v.out, "\x1b[%dA\x1b[J", v.drawn)
		v.drawn = 0
	}
}

// draw puts the table on the screen.
func (v *demoView) draw() {
	s := v.load.Snapshot()
	text := table(&s)
	v.drawn = strings.Count(text, "\n")
	fmt.Fprint(v.out, text)
}

// table has a cell for each session: its number, its answered requests, its longest pause since the last kill, and a mark:
// "…" for one that has been waiting for long, "BROKEN".
func table(s *imapload.Snapshot) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s\nsession, requests answered, longest pause in s since the last kill (… waits now)\n", clientsText(s))
	for i, one := range s.Sessions {
		mark := " "
		pause := fmt.Sprintf("%.2f", one.Longest.Seconds())
		switch {
		case one.Broken != "":
			pause = "BROKEN"
		case one.Pending > slow:
			mark = "…"
		}
		fmt.Fprintf(&b, "%3d %4d %6s%s", i+1, one.Requests(), pause, mark)
		if i%cells == cells-1 || i == len(s.Sessions)-1 {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func clientsText(s *imapload.Snapshot) string {
	all, appends := s.Requests()
	return fmt.Sprintf("clients: %d sessions, %d broken, %d wait; %d requests answered, %d messages acknowledged; answers take %s (median), %s (p99)",
		len(s.Sessions), s.Broken(), waiting(s), all, appends, seconds(s.Waits.Quantile(0.5)), seconds(s.Waits.Quantile(0.99)))
}

// waiting counts the sessions that have been waiting for long.
func waiting(s *imapload.Snapshot) int {
	n := 0
	for _, one := range s.Sessions {
		if one.Pending > slow {
			n++
		}
	}
	return n
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func pausesText(pauses []time.Duration) string {
	return fmt.Sprintf("median %s, p99 %s, longest %s", seconds(failover.Quantile(pauses, 0.5)), seconds(failover.Quantile(pauses, 0.99)), seconds(failover.Quantile(pauses, 1)))
}

// failoverText is the survivor's timeline.
func failoverText(l *failover.Loss) string {
	var steps []string
	for _, s := range l.Failover.Steps {
		steps = append(steps, fmt.Sprintf("%s %.0f ms", s.Name, s.MS))
	}
	return fmt.Sprintf("the guest is on %s, %.0f ms after %s was last heard: %s", l.Survivor, l.Failover.TotalMS, l.Lost, strings.Join(steps, ", "))
}

func transferText(t *protect.Transfer) string {
	if t == nil {
		return "no state transfer is known"
	}
	delta := ""
	if sent, all := t.Content(); sent < all {
		delta = fmt.Sprintf(", a delta of %d MiB of %d MiB,", sent>>20, all>>20)
	}
	return fmt.Sprintf("state transfer of %d MiB%s in %.1f s, %d rounds; the guest stood still for %.0f ms", t.Bytes>>20, delta, t.ElapsedMS/1000, t.Round, t.StopMS)
}

func returnText(l *failover.Loss) string {
	return fmt.Sprintf("%s booted in %s, and %s later the guest was protected (%s)", l.Lost, seconds(l.Returned), seconds(l.Protected), transferText(&l.Transfer))
}

// shownFaults is how many lines of what is wrong are printed.
const shownFaults = 10

// summary tells how it went, and fails if anything was lost.
func (d *failoverDemo) summary(s imapload.Snapshot, v *imapload.Verification) error {
	d.view.close()
	all, _ := s.Requests()
	out := d.view.out
	fmt.Fprintf(out, "\nsessions   %d, %d broken\nrequests   %d answered\nmessages   %d acknowledged, %d found as they should be, %d faults\n",
		len(s.Sessions), s.Broken(), all, v.Acknowledged, v.Found, len(v.Faults))
	for _, l := range d.losses {
		fmt.Fprintf(out, "%s killed  %s\n           pauses at the clients: %s\n", l.Lost, failoverText(l), pausesText(l.Pauses))
		if l.Protected > 0 {
			fmt.Fprintf(out, "           %s\n", returnText(l))
		}
	}
	var wrong []string
	for i, one := range s.Sessions {
		if one.Broken != "" {
			wrong = append(wrong, fmt.Sprintf("session %d is broken: %s", i+1, one.Broken))
		}
	}
	wrong = append(wrong, v.Faults...)
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("%d things went wrong:\n%s", len(wrong), strings.Join(wrong[:min(shownFaults, len(wrong))], "\n"))
}
