package labrun

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"tandem/cmd/internal/lab/agent"
)

// Session is a command that is being talked to.
type Session struct {
	*agent.Process
	// Out is what the command writes to its standard output, or to its terminal; Err to its standard error.
	Out, Err *Screen

	input *io.PipeWriter
}

// Options say how a session runs.
type Options struct {
	// TTY gives the command a terminal. Then all output is on Out.
	TTY bool
	// Mirror gets a copy of Out as it comes.
	Mirror io.Writer
	// Input is typed at once, before the command has said anything.
	Input string
}

// Start starts a command of the engine's, whose standard input stays open until CloseInput.
func (e *Engine) Start(ctx context.Context, o Options, args ...string) (*Session, error) {
	in, typed := io.Pipe()
	s := &Session{Out: newScreen(o.Mirror), Err: newScreen(nil), input: typed}
	process, err := e.Client.Start(ctx, agent.Cmd{
		Args: args, Stdin: io.MultiReader(strings.NewReader(o.Input), in), Stdout: s.Out, Stderr: s.Err,
		TTY: o.TTY, Rows: 24, Cols: 80,
	})
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	s.Process = process
	go func() {
		<-process.Done()
		_ = in.CloseWithError(io.ErrClosedPipe)
		s.Out.end()
		s.Err.end()
	}()
	return s, nil
}

// Type sends text to the command.
func (s *Session) Type(text string) error {
	_, err := io.WriteString(s.input, text)
	return err
}

// CloseInput ends the command's standard input.
func (s *Session) CloseInput() error { return s.input.Close() }

// Status waits for the command's end and returns its exit status as a shell would.
func (s *Session) Status() (int, error) {
	err := s.Wait()
	var exit *agent.ExitError
	if errors.As(err, &exit) {
		return exit.ShellCode(), nil
	}
	return 0, err
}

// Screen keeps what a command prints.
type Screen struct {
	mirror io.Writer

	mu      sync.Mutex
	text    strings.Builder
	awaited int           // what comes before has been waited for
	changed chan struct{} // closed when text grows
	ended   bool
}

func newScreen(mirror io.Writer) *Screen {
	return &Screen{mirror: mirror, changed: make(chan struct{})}
}

// Write implements io.Writer.
func (s *Screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	s.text.Write(p)
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	if s.mirror == nil {
		return len(p), nil
	}
	return s.mirror.Write(p)
}

func (s *Screen) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	close(s.changed)
	s.changed = make(chan struct{})
}

// String returns all that has come.
func (s *Screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// shownBytes is how much of a screen an error shows.
const shownBytes = 2000

// Await waits until text comes, behind the text that was awaited last.
func (s *Screen) Await(ctx context.Context, text string) error {
	for {
		s.mu.Lock()
		all, ended, changed := s.text.String(), s.ended, s.changed
		if i := strings.Index(all[s.awaited:], text); i >= 0 {
			s.awaited += i + len(text)
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		if ended {
			return fmt.Errorf("the command ended without printing %q; it printed %q", text, tail(all))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%q did not come: %w; there is %q", text, context.Cause(ctx), tail(all))
		}
	}
}

func tail(s string) string { return s[max(0, len(s)-shownBytes):] }
