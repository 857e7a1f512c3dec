// Package imapload is a load of IMAP clients that notices whatever a server owes them.
//
// Each session logs in once, as a user of its own, and then appends, fetches and searches until it is stopped, with pauses
// to think. Every message is unique and its content follows from its identifier. A session whose connection breaks, or whom
// the server dismisses or answers wrongly, is broken for good: nothing is done again, and no one logs in a second time.
// What the server has acknowledged is remembered, and Verify asks for all of it over connections of its own.
//
// The clients live in this process and reach the server by a dialler, so that they outlive the server's host. A Load may be
// used by any goroutine; each session has a goroutine of its own.
package imapload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"tandem/cmd/internal/pause"
)

// Dialer opens connections to the server.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// Config says what load to make.
type Config struct {
	Dial    Dialer
	Address string // of the server, host:port
	// Sessions is how many clients there are. User names the account of one, from 0 on.
	Sessions int
	User     func(session int) (name, password string)
	// Run is part of every message's identifier: letters and digits, different for each load on the same mailboxes.
	Run string
	// Think is the average pause between an answer and the next request; 0 is no pause.
	Think time.Duration
	// BodyBytes is the size of a message without its header; 0 means 1 KiB.
	BodyBytes int
	// Patience is how long a request may take before its session counts as broken; 0 means 2 minutes.
	Patience time.Duration
	// Seed decides who asks for what, when.
	Seed uint64
}

const (
	defaultBodyBytes = 1024
	defaultPatience  = 2 * time.Minute
	// logins is how many sessions log in at the same time: a small server is not to be drowned before it begins.
	logins = 4
)

// Load is a running load.
type Load struct {
	cfg      Config
	sessions []*session
	stop     chan struct{}
	stopped  sync.Once
	running  sync.WaitGroup
}

// Start logs all sessions in and lets them work. If one can't log in, nothing is left of the others. The context bounds the
// logins alone.
func Start(ctx context.Context, cfg Config) (*Load, error) {
	if cfg.BodyBytes == 0 {
		cfg.BodyBytes = defaultBodyBytes
	}
	if cfg.Patience == 0 {
		cfg.Patience = defaultPatience
	}
	if cfg.Think >= cfg.Patience/2 {
		return nil, fmt.Errorf("sessions can't think for %v: a connection is given up after %v", cfg.Think, cfg.Patience)
	}
	l := &Load{cfg: cfg, stop: make(chan struct{})}
	for i := range cfg.Sessions {
		l.sessions = append(l.sessions, newSession(&l.cfg, i))
	}
	if err := l.login(ctx); err != nil {
		for _, s := range l.sessions {
			s.close()
		}
		return nil, err
	}
	for _, s := range l.sessions {
		l.running.Go(func() { s.run(l.stop) })
	}
	return l, nil
}

func (l *Load) login(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failures := make(chan error, len(l.sessions))
	turns := make(chan struct{}, logins)
	for _, s := range l.sessions {
		go func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			err := s.login(ctx)
			if err != nil {
				cancel()
			}
			failures <- err
		}()
	}
	var first error
	for range l.sessions {
		if err := <-failures; err != nil && (first == nil || errors.Is(first, context.Canceled)) {
			first = err
		}
	}
	return first
}

// Stop lets each session finish what it does and log out. When it returns nothing is running. Sessions that are still
// waiting when the context ends are broken.
func (l *Load) Stop(ctx context.Context) {
	l.stopped.Do(func() { close(l.stop) })
	done := make(chan struct{})
	go func() {
		l.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return
	case <-ctx.Done():
	}
	for _, s := range l.sessions {
		s.close()
	}
	<-done
}

// Mark begins a new period: Snapshot's longest pauses are of requests that are answered from now on.
func (l *Load) Mark() {
	for _, s := range l.sessions {
		s.meter.Mark()
	}
}

// Snapshot is a load at one instant.
type Snapshot struct {
	Sessions []SessionState
	// Waits are those of all requests of all sessions.
	Waits pause.Waits
}

// SessionState is one client at one instant.
type SessionState struct {
	Appends, Fetches, Searches int // acknowledged
	// Longest is the longest pause since the last Mark, Pending how long the request under way has been waiting.
	Longest, Pending time.Duration
	// Broken says why the session is broken; "" if it is not.
	Broken string
}

// Requests is how many requests the server has answered.
func (s SessionState) Requests() int { return s.Appends + s.Fetches + s.Searches }

// Snapshot tells how the load is.
func (l *Load) Snapshot() Snapshot {
	var out Snapshot
	for _, s := range l.sessions {
		out.Sessions = append(out.Sessions, s.state())
		out.Waits.Add(s.meter.Waits())
	}
	return out
}

// Broken counts the broken sessions.
func (s *Snapshot) Broken() int {
	n := 0
	for _, one := range s.Sessions {
		if one.Broken != "" {
			n++
		}
	}
	return n
}

// Requests counts the requests that were answered, and the appends among them.
func (s *Snapshot) Requests() (all, appends int) {
	for _, one := range s.Sessions {
		all += one.Requests()
		appends += one.Appends
	}
	return all, appends
}

// Longest returns each session's longest pause.
func (s *Snapshot) Longest() []time.Duration {
	out := make([]time.Duration, len(s.Sessions))
	for i, one := range s.Sessions {
		out[i] = one.Longest
	}
	return out
}

// random is a session's own source.
func (c *Config) random(session int) *rand.Rand {
	return rand.New(rand.NewPCG(c.Seed, uint64(session)))
}

func (c *Config) nameSession(session int) string {
	name, _ := c.User(session)
	return fmt.Sprintf("session %d (%s)", session+1, name)
}
