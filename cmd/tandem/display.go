package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/docker/go-units"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"tandem/vmm/protect"
)

// display is standard error, which events and the progress bar of a state transfer share. On a terminal it ends lines so
// that they begin at the left in raw mode too. It may be used from any goroutine.
type display struct {
	w        io.Writer
	terminal bool
	log      *slog.Logger

	updates    chan protect.Transfer
	quit, done chan struct{}

	mu     sync.Mutex
	bar    *progressbar.ProgressBar // nil while there is no transfer, or nobody to see it
	hidden bool                     // the guest's console is on the terminal: no bar over it
	last   protect.Transfer         // what was told last
}

// newDisplay starts the goroutine that shows state transfers; close ends it.
func newDisplay(w io.Writer, asJSON bool) *display {
	f, ok := w.(*os.File)
	s := &display{
		w: w, terminal: ok && term.IsTerminal(int(f.Fd())),
		updates: make(chan protect.Transfer, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
	if asJSON {
		s.log = slog.New(slog.NewJSONHandler(s, nil))
	} else {
		s.log = slog.New(slog.NewTextHandler(s, nil))
	}
	go s.show()
	return s
}

// Write writes whole lines, over the bar if there is one.
func (s *display) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bar != nil {
		_ = s.bar.Clear()
	}
	text := p
	if s.terminal {
		text = bytes.ReplaceAll(p, []byte("\n"), []byte("\r\n"))
	}
	if _, err := s.w.Write(text); err != nil {
		return 0, err
	}
	return len(p), nil
}

// hide says whether the guest's console has the terminal now.
func (s *display) hide(hidden bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hidden = hidden
	if hidden {
		s.endBar()
	}
}

// update tells of a state transfer. It never waits; what nobody has seen yet gives way to what is newer.
func (s *display) update(t protect.Transfer) {
	for {
		select {
		case s.updates <- t:
			return
		default:
		}
		select {
		case <-s.updates:
		default:
		}
	}
}

// close ends what is shown of transfers. Lines are still written.
func (s *display) close() {
	close(s.quit)
	<-s.done
}

func (s *display) show() {
	defer close(s.done)
	for {
		select {
		case t := <-s.updates:
			s.tell(t)
		case <-s.quit:
			s.hide(true)
			return
		}
	}
}

// tellEveryMS is how often a transfer is told of in lines.
const tellEveryMS = 2000

// tell shows how far a transfer is: as a bar, or by a line for each round and now and then.
func (s *display) tell(t protect.Transfer) {
	s.mu.Lock()
	if s.terminal && !s.hidden {
		s.drawBar(t)
		s.last = t
		s.mu.Unlock()
		return
	}
	due := t.Round != s.last.Round || t.ElapsedMS < s.last.ElapsedMS || t.ElapsedMS-s.last.ElapsedMS >= tellEveryMS || finished(t)
	if due {
		s.last = t
	}
	s.mu.Unlock() // the line goes through Write
	if due {
		s.log.Info("state transfer", transferAttributes(t)...)
	}
}

// finished tells whether a transfer is complete: the guest stood still only at its end.
func finished(t protect.Transfer) bool { return t.StopMS > 0 }

// pageBytes is the size of a guest's page.
const pageBytes = 4096

// transferred is how many bytes of memory and disks the backup has as they are, and of how many. Pages that were written
// since the first round are missing again.
func transferred(t protect.Transfer) (done, total uint64) {
	pages := min(t.Pages+t.SamePages, t.PagesTotal)
	if t.Round > 1 {
		pages = t.PagesTotal - min(t.Dirty, t.PagesTotal)
	}
	return pages*pageBytes + min(t.DiskBytes, t.DiskTotal), t.PagesTotal*pageBytes + t.DiskTotal
}

func transferAttributes(t protect.Transfer) []any {
	a := []any{"round", t.Round, "sent", units.BytesSize(float64(t.Bytes)), "dirty_pages", t.Dirty}
	if sent, all := t.Content(); sent < all {
		a = append(a, "same", units.BytesSize(float64(all-sent)))
	}
	if finished(t) {
		return append(a, "elapsed_ms", int64(t.ElapsedMS), "stop_ms", int64(t.StopMS))
	}
	if done, total := transferred(t); total > 0 {
		a = append(a, "done", fmt.Sprintf("%d%%", percent(done, total)))
	}
	return a
}

// percent is how much of total is done.
func percent(done, total uint64) int {
	if total == 0 {
		return 100
	}
	return int(float64(min(done, total)) / float64(total) * 100)
}

// drawBar draws a transfer. Called with mu held.
func (s *display) drawBar(t protect.Transfer) {
	done, total := transferred(t)
	if s.bar == nil || s.bar.GetMax64() != int64(total) {
		s.endBar()
		s.bar = progressbar.NewOptions64(int64(total), progressbar.OptionSetWriter(s.w), progressbar.OptionSetWidth(barWidth),
			progressbar.OptionShowBytes(true), progressbar.OptionClearOnFinish())
	}
	s.bar.Describe(fmt.Sprintf("state transfer, round %d", t.Round))
	_ = s.bar.Set64(int64(done))
	if finished(t) {
		s.endBar()
	}
}

// endBar removes the bar. Called with mu held.
func (s *display) endBar() {
	if s.bar != nil {
		_ = s.bar.Clear()
		_ = s.bar.Exit()
		s.bar = nil
	}
}
