package vmm

import (
	"io"
	"sync"
)

// maxConsoleBytes bounds what waits to be written to the user's console. A guest that prints faster than it is read
// waits.
const maxConsoleBytes = 64 << 10

// ConsoleWriter is a sink that writes to w from a goroutine of its own, so that a byte costs the machine no system call.
type ConsoleWriter struct {
	w    io.Writer
	done chan struct{}

	mu      sync.Mutex
	changed *sync.Cond
	buffer  []byte // Invariant: len(buffer) <= maxConsoleBytes
	closed  bool
	err     error // the first failure of w; what comes after is dropped
}

// NewConsoleWriter starts the goroutine; Close ends it.
func NewConsoleWriter(w io.Writer) *ConsoleWriter {
	c := &ConsoleWriter{w: w, done: make(chan struct{})}
	c.changed = sync.NewCond(&c.mu)
	go c.write()
	return c
}

// Output implements devices.Sink.
func (c *ConsoleWriter) Output(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(p) > 0 {
		for len(c.buffer) == maxConsoleBytes && c.err == nil {
			c.changed.Wait()
		}
		if c.err != nil {
			return
		}
		n := min(len(p), maxConsoleBytes-len(c.buffer))
		c.buffer = append(c.buffer, p[:n]...)
		p = p[n:]
		c.changed.Broadcast()
	}
}

// Close writes what is left and returns the first failure there was.
func (c *ConsoleWriter) Close() error {
	c.mu.Lock()
	c.closed = true
	c.changed.Broadcast()
	c.mu.Unlock()
	<-c.done
	return c.err
}

func (c *ConsoleWriter) write() {
	defer close(c.done)
	var out []byte
	for {
		c.mu.Lock()
		for len(c.buffer) == 0 && !c.closed {
			c.changed.Wait()
		}
		if len(c.buffer) == 0 {
			c.mu.Unlock()
			return
		}
		out, c.buffer = c.buffer, out[:0]
		c.changed.Broadcast()
		c.mu.Unlock()
		if _, err := c.w.Write(out); err != nil {
			c.mu.Lock()
			if c.err == nil {
				c.err = err
			}
			c.changed.Broadcast()
			c.mu.Unlock()
		}
	}
}
