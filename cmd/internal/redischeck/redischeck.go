// Package redischeck writes to a Redis server, reads back, and finds every acknowledged write that is lost, done twice or
// rolled back.
//
// Each client has one connection and three keys of its own, which it alone writes: a register (SET n, read by itself and by
// its neighbour), a counter (INCR, whose every answer is known beforehand) and a list (RPUSH n, whose every length is known
// beforehand, and which shows at the end that each write happened once). Values are 1, 2, 3, ... A connection that breaks is
// not replaced: its client is broken, and so is one that is answered wrongly.
//
// The clients live in this process and reach the server by a dialler, so that they outlive the server's host. A Check may be
// used by any goroutine; each client has a goroutine of its own.
package redischeck

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"tandem/cmd/internal/pause"
)

// Dialer opens connections to the server.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// Config says how to check.
type Config struct {
	Dial    Dialer
	Address string // of the server, host:port
	Clients int
	// Run is part of every key: different for each check on the same server.
	Run string
	// Think is the average pause between an answer and the next request; 0 is no pause.
	Think time.Duration
	// Patience is how long a request may take before its client counts as broken; 0 means 2 minutes.
	Patience time.Duration
	// Seed decides who asks for what, when.
	Seed uint64
}

const defaultPatience = 2 * time.Minute

// Check is a running check.
type Check struct {
	cfg     Config
	clients []*client
	ctx     context.Context // of the requests
	cancel  context.CancelFunc
	stop    chan struct{}
	stopped sync.Once
	running sync.WaitGroup
}

// Start connects all clients and lets them work. The context bounds the connecting alone.
func Start(ctx context.Context, cfg Config) (*Check, error) {
	if cfg.Patience == 0 {
		cfg.Patience = defaultPatience
	}
	c := &Check{cfg: cfg, stop: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for i := range cfg.Clients {
		one := newClient(&c.cfg, i)
		c.clients = append(c.clients, one)
		if err := one.connect(ctx); err != nil {
			c.cancel()
			c.close()
			return nil, fmt.Errorf("client %d can't reach the server: %w", i+1, err)
		}
	}
	for i, one := range c.clients {
		neighbour := c.clients[(i+1)%len(c.clients)]
		c.running.Go(func() { one.run(c.ctx, c.stop, neighbour) })
	}
	return c, nil
}

func (c *Check) close() {
	for _, one := range c.clients {
		_ = one.conn.Close()
	}
}

// Stop lets each client finish what it does. When it returns nothing is running. Clients that are still waiting when the
// context ends are broken.
func (c *Check) Stop(ctx context.Context) {
	c.stopped.Do(func() { close(c.stop) })
	done := make(chan struct{})
	go func() {
		c.running.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		c.cancel()
		c.close()
		<-done
	}
	c.cancel()
	c.close()
}

// Mark begins a new period: Snapshot's longest pauses are of requests that are answered from now on.
func (c *Check) Mark() {
	for _, one := range c.clients {
		one.meter.Mark()
	}
}

// Snapshot is a check at one instant.
type Snapshot struct {
	Clients []ClientState
	// Waits are those of all requests of all clients.
	Waits pause.Waits
}

// ClientState is one client at one instant.
type ClientState struct {
	Writes, Reads int // answered
	// Longest is the longest pause since the last Mark, Pending how long the request under way has been waiting.
	Longest, Pending time.Duration
	// Broken says why the client is broken, be it by its connection or by an answer; "" if it is not.
	Broken string
}

// Snapshot tells how the check is.
func (c *Check) Snapshot() Snapshot {
	var out Snapshot
	for _, one := range c.clients {
		out.Clients = append(out.Clients, one.state())
		out.Waits.Add(one.meter.Waits())
	}
	return out
}

// Broken returns what broke, a line for each client.
func (s *Snapshot) Broken() []string {
	var out []string
	for i, one := range s.Clients {
		if one.Broken != "" {
			out = append(out, fmt.Sprintf("client %d: %s", i+1, one.Broken))
		}
	}
	return out
}

// Requests counts the requests that were answered.
func (s *Snapshot) Requests() int {
	n := 0
	for _, one := range s.Clients {
		n += one.Writes + one.Reads
	}
	return n
}

// Longest returns the longest pause of all clients.
func (s *Snapshot) Longest() time.Duration {
	var d time.Duration
	for _, one := range s.Clients {
		d = max(d, one.Longest)
	}
	return d
}
