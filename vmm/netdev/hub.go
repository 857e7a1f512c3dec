package netdev

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"tandem/devices/virtio"
	"tandem/vmm/netdev/frame"
)

// redialAfter is how long a client waits before it looks for its hub again.
const redialAfter = 500 * time.Millisecond

// hubClient is a back end that carries frames over a unix socket. When the hub goes away it is looked for again.
type hubClient struct {
	path   string
	post   Post
	queue  *frame.Queue
	link   linkState
	ctx    context.Context
	cancel context.CancelFunc
	group  sync.WaitGroup
	redial func(context.Context) // waits before the hub is looked for again

	mu   sync.Mutex
	conn net.Conn // nil while there is none
}

// openHub connects to the hub, which must be there to begin with.
func openHub(c Config, post Post, log *slog.Logger) (*hubClient, error) {
	conn, err := net.Dial("unix", c.Path)
	if err != nil {
		return nil, fmt.Errorf("no hub answers at %s: start it first, or check the path (%w)", c.Path, errors.Unwrap(err))
	}
	h := &hubClient{
		path: c.Path, post: post, queue: frame.NewQueue(maxQueuedPackets, maxQueuedBytes), conn: conn,
		link: linkState{log: log, name: "hub " + c.Path}, redial: pause,
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.group.Go(h.receive)
	h.group.Go(h.send)
	return h, nil
}

func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(redialAfter):
	}
}

// Offers implements Backend: a stream of frames has no place for what a header says.
func (h *hubClient) Offers() Offers { return Offers{} }

// SetOffloads implements Backend.
func (h *hubClient) SetOffloads(virtio.Offloads) {}

// Output implements Backend.
func (h *hubClient) Output(packet []byte) {
	if frame.Valid(packet) {
		h.queue.Offer(packet)
	}
}

// receive reads frames, connecting again when the hub is lost.
func (h *hubClient) receive() {
	for h.ctx.Err() == nil {
		conn := h.connection()
		if conn == nil {
			if conn = h.connect(); conn == nil {
				return
			}
		}
		r := bufio.NewReader(conn)
		p, err := frame.ReadStream(r)
		for ; err == nil; p, err = frame.ReadStream(r) {
			if h.post(p) != nil {
				return
			}
		}
		h.drop(conn, err)
	}
}

func (h *hubClient) connection() net.Conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conn
}

// drop gives up a connection.
func (h *hubClient) drop(conn net.Conn, cause error) {
	conn.Close()
	h.mu.Lock()
	if h.conn == conn {
		h.conn = nil
	}
	h.mu.Unlock()
	if h.ctx.Err() == nil {
		h.link.lost(cause)
	}
}

// connect looks for the hub until it is there; it returns nil when the back end is closed.
func (h *hubClient) connect() net.Conn {
	for {
		h.redial(h.ctx)
		var d net.Dialer
		conn, err := d.DialContext(h.ctx, "unix", h.path)
		if h.ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			continue
		}
		h.mu.Lock()
		h.conn = conn
		h.mu.Unlock()
		if h.ctx.Err() != nil { // Close may have missed it
			conn.Close()
			return nil
		}
		h.link.back()
		return conn
	}
}

// send writes the guest's frames. Without a hub they are dropped.
func (h *hubClient) send() {
	for {
		p, ok := h.queue.Take()
		if !ok {
			return
		}
		if conn := h.connection(); conn != nil {
			if err := frame.WriteStream(conn, p); err != nil {
				h.drop(conn, err)
			}
		}
	}
}

// Close implements Backend.
func (h *hubClient) Close() error {
	h.cancel()
	h.queue.Close()
	if conn := h.connection(); conn != nil {
		conn.Close()
	}
	h.group.Wait()
	return nil
}

// maxPorts bounds the machines on a hub.
const maxPorts = 64

// Hub joins machines: each frame that one sends goes to all others. A machine that does not read loses frames; it does
// not hold up the rest.
type Hub struct {
	listener net.Listener
	group    sync.WaitGroup

	mu     sync.Mutex
	closed bool
	ports  map[*port]bool
}

// port is a machine's connection.
type port struct {
	conn  net.Conn
	queue *frame.Queue
}

// NewHub starts a hub at a unix socket, which must not exist.
func NewHub(path string) (*Hub, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	h := &Hub{listener: l, ports: map[*port]bool{}}
	h.group.Go(h.accept)
	return h, nil
}

func (h *Hub) accept() {
	for {
		conn, err := h.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			pause(context.Background())
			continue
		}
		h.plug(conn)
	}
}

func (h *Hub) plug(conn net.Conn) {
	p := &port{conn: conn, queue: frame.NewQueue(maxQueuedPackets, maxQueuedBytes)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || len(h.ports) >= maxPorts {
		conn.Close()
		return
	}
	h.ports[p] = true
	h.group.Go(func() { h.receive(p) })
	h.group.Go(func() { h.send(p) })
}

// receive hands a machine's frames to all others until it hangs up or says what no machine says.
func (h *Hub) receive(p *port) {
	defer h.unplug(p)
	r := bufio.NewReader(p.conn)
	for {
		packet, err := frame.ReadStream(r)
		if err != nil {
			return
		}
		h.mu.Lock()
		for other := range h.ports {
			if other != p {
				other.queue.Offer(packet)
			}
		}
		h.mu.Unlock()
	}
}

func (h *Hub) send(p *port) {
	defer h.unplug(p)
	for {
		packet, ok := p.queue.Take()
		if !ok {
			return
		}
		// The packet is in other queues too, and writing uses its header.
		if err := frame.WriteStream(p.conn, frame.Plain(packet[frame.HeaderBytes:])); err != nil {
			return
		}
	}
}

func (h *Hub) unplug(p *port) {
	p.queue.Close()
	p.conn.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.ports, p)
}

// Close ends the hub and removes its socket.
func (h *Hub) Close() error {
	h.mu.Lock()
	h.closed = true
	for p := range h.ports {
		p.conn.Close()
		p.queue.Close()
	}
	h.mu.Unlock()
	err := h.listener.Close()
	h.group.Wait()
	return err
}
