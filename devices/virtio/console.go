package virtio

import (
	"encoding/binary"
	"fmt"

	"tandem/devices"
)

// Feature bits and configuration of a console (virtio 1.2 §5.3).
const (
	consoleSize      = 1 << 0
	consoleEmergency = 1 << 2

	consoleConfigSize      = 12
	consoleEmergencyOffset = 8
)

// A console's queues (§5.3.2), one port only.
const (
	consoleReceive  = 0
	consoleTransmit = 1

	consoleQueueSize = 64
)

const (
	// maxConsoleWrite is the longest single write of a guest, in bytes. Linux writes at most 32 KiB at once.
	maxConsoleWrite = 64 << 10
	// maxConsoleRoom is the most that [Console.Room] says.
	maxConsoleRoom = 4096
)

// ConsoleConfig is what a console shows to its guest.
type ConsoleConfig struct {
	// Columns and Rows are the size of the terminal, in characters; 0 if it has none.
	Columns, Rows uint16
}

// Console is a console of one port (§5.3).
type Console struct {
	Core
	config ConsoleConfig
	out    devices.Sink
	chain  chain
}

// NewConsole returns a console whose guest writes to out.
func NewConsole(mem devices.Memory, config ConsoleConfig, out devices.Sink) *Console {
	c := &Console{config: config, out: out}
	c.init(c, mem, consoleQueueSize, consoleQueueSize)
	return c
}

func (c *Console) id() uint16   { return idConsole }
func (c *Console) start(uint64) {}
func (c *Console) reset()       {}

func (c *Console) features() uint64 {
	f := uint64(consoleEmergency | featInOrder)
	if c.config.Columns > 0 && c.config.Rows > 0 {
		f |= consoleSize
	}
	return f
}

// configuration lays out struct virtio_console_config (§5.3.4).
func (c *Console) configuration(p *[configSpace]byte) int {
	binary.LittleEndian.PutUint16(p[0:], c.config.Columns)
	binary.LittleEndian.PutUint16(p[2:], c.config.Rows)
	return consoleConfigSize
}

// configure takes the character of an emergency write, which needs neither a queue nor a driver (§5.3.4).
func (c *Console) configure(offset uint64, p []byte) {
	if offset == consoleEmergencyOffset {
		c.out.Output([]byte{p[0]})
	}
}

func (c *Console) notify(q int) {
	if q == consoleTransmit {
		c.transmit()
		return
	}
	c.rearm(consoleReceive, 1)
}

func (c *Console) transmit() {
	for c.pop(consoleTransmit, &c.chain) {
		n := c.chain.inLen
		if n > maxConsoleWrite {
			c.fail(fmt.Errorf("console write of %d bytes, at most %d possible", n, maxConsoleWrite))
			return
		}
		if n > 0 {
			p := make([]byte, n)
			if err := c.chain.read(c.mem, 0, p); err != nil {
				c.fail(fmt.Errorf("console write: %w", err))
				return
			}
			c.out.Output(p)
		}
		c.push(consoleTransmit, c.chain.head, 0)
	}
	c.publish(consoleTransmit)
	c.listen(consoleTransmit, 0)
}

// Room returns how many bytes [Console.Receive] would take now, up to a bound. It changes nothing. When the guest has
// broken its queue it says 1, so that Receive gets to find that out.
func (c *Console) Room() int {
	if !c.usable(consoleReceive) {
		return 0
	}
	q := &c.queues[consoleReceive]
	n, err := q.available()
	room := uint64(0)
	for i := uint16(0); err == nil && i < n && room < maxConsoleRoom; i++ {
		err = q.peek(i, &c.chain)
		room += c.chain.outLen
	}
	if err != nil {
		return 1
	}
	return int(min(room, maxConsoleRoom))
}

// Receive gives typed bytes to the guest and returns how many it took; the rest is lost. The machine asks Room first.
func (c *Console) Receive(p []byte) int {
	taken := 0
	for taken < len(p) && c.pop(consoleReceive, &c.chain) {
		n := int(min(c.chain.outLen, uint64(len(p)-taken)))
		if err := c.chain.write(c.mem, 0, p[taken:taken+n]); err != nil {
			c.fail(fmt.Errorf("console read: %w", err))
			break
		}
		c.push(consoleReceive, c.chain.head, uint32(n))
		taken += n
	}
	c.publish(consoleReceive)
	c.rearm(consoleReceive, 1)
	return taken
}

// consoleState is empty: all of a console's state is its Core's.
type consoleState struct{}

func (c *Console) save() any { return consoleState{} }

func (c *Console) load(p []byte, _ uint64, _ []queueState) (func(), error) {
	if err := devices.DecodeState(p, &consoleState{}); err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	return func() {}, nil
}
