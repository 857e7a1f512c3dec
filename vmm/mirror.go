package vmm

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"tandem/devices"
	"tandem/kvm"
	"tandem/lockstep"
	"tandem/lockstep/wire"
)

// mirrorFrame is the size in bytes up to which records are put into one frame for the peer.
const mirrorFrame = 64 << 10

// ackBytes is the size of an acknowledgement: the number of the last record that the peer holds, little-endian.
const ackBytes = 8

// Mirror is the primary's side of a pair: it sends the machine's state and then its log to a peer, and lets output go
// when the peer holds what led to it. The connection carries, from the primary, a saved machine and the frames of its log,
// and, from the peer, acknowledgements.
type Mirror struct {
	machine *Machine
	ring    *wire.Ring
	reader  *wire.RingReader
	hold    *lockstep.Hold
	conn    io.ReadWriteCloser

	once sync.Once
	lost chan struct{}
	err  error // why the peer was lost; read after lost is closed
}

// MirrorTo makes the machine, which is loaded and has no door yet, the primary of a pair: it sends what the machine is, and
// from then on every input.
func (m *Machine) MirrorTo(conn io.ReadWriteCloser, options lockstep.RecorderOptions) (*Mirror, error) {
	base := wire.Base{Sequence: 1, Position: uint64(m.position), Time: m.time()}
	buffered := bufio.NewWriterSize(conn, 1<<20)
	if err := errors.Join(m.Save(buffered, 0, base), buffered.Flush()); err != nil {
		return nil, fmt.Errorf("send the machine to its peer: %w", err)
	}
	r := &Mirror{machine: m, conn: conn, ring: wire.NewRing(ringBytes, base, nil), hold: lockstep.NewHold(0), lost: make(chan struct{})}
	r.reader = r.ring.NewReader()
	if err := m.Record(r.ring, options); err != nil {
		return nil, err
	}
	m.mirror = r
	go r.send()
	go r.receive()
	return r, nil
}

// send passes the ring's records on as they become visible.
func (r *Mirror) send() {
	frames := wire.NewFrameWriter(r.conn, true)
	for {
		batch, err := r.reader.Next(context.Background(), mirrorFrame)
		if err == nil {
			_, err = frames.Write(batch)
		}
		if err != nil {
			r.lose(fmt.Errorf("send the log: %w", err))
			return
		}
	}
}

// receive takes the peer's acknowledgements.
func (r *Mirror) receive() {
	var ack [ackBytes]byte
	for {
		if _, err := io.ReadFull(r.conn, ack[:]); err != nil {
			r.lose(fmt.Errorf("the peer's acknowledgements end: %w", err))
			return
		}
		sequence := binary.LittleEndian.Uint64(ack[:])
		if err := r.reader.Acknowledge(sequence); err != nil {
			r.lose(fmt.Errorf("the peer is wrong: %w", err))
			return
		}
		r.hold.Acknowledge(sequence)
	}
}

// lose ends the pair. What is held stays held until somebody decides which machine lives on.
func (r *Mirror) lose(err error) {
	r.once.Do(func() {
		r.err = err
		r.reader.Close()
		_ = r.conn.Close()
		close(r.lost)
	})
}

// Lost is closed when the peer is lost; Err then says why.
func (r *Mirror) Lost() <-chan struct{} { return r.lost }

// Err returns why the peer was lost.
func (r *Mirror) Err() error { return r.err }

// GoAlone lets all output go: the peer is known to be dead or fenced.
func (r *Mirror) GoAlone() { r.hold.Open() }

// Fence drops all output: the peer lives on, and this machine must not be heard any more.
func (r *Mirror) Fence() { r.hold.Discard() }

// Close ends the connection.
func (r *Mirror) Close() { r.lose(errors.New("the machine has ended")) }

// output lets bytes out of the machine as soon as the peer holds every record up to now.
func (r *Mirror) output(p []byte, release func()) {
	sequence := r.ring.Base().Sequence - 1
	r.machine.recorder.Flush() // what gates output goes at once
	r.hold.Add(sequence, len(p), release)
}

// gate is a sink between a device and the world. It lets output through, holds it for the peer, or drops it where another
// machine does the talking.
type gate struct {
	machine *Machine
	world   devices.Sink
}

// gated puts a gate in front of a sink; no sink needs none.
func (m *Machine) gated(world devices.Sink) devices.Sink {
	if world == nil {
		return nil
	}
	return gate{m, world}
}

func (g gate) Output(p []byte) {
	switch {
	case g.machine.mirror != nil:
		g.machine.mirror.output(p, func() { g.world.Output(p) })
	case !g.machine.following:
		g.world.Output(p)
	}
}

// Follower is the backup's side of a pair: a machine that does what the primary's log says as it comes.
type Follower struct {
	Machine *Machine
	inbox   *lockstep.Inbox
}

// Follow makes a machine of what a primary sends over a connection. Its Run returns CauseLogEnd when all is done that has
// come before the connection ended; if Logged is then 0, the primary was lost and the machine can go live.
func Follow(system *kvm.System, conn io.ReadWriter, adapt func(*Config)) (*Follower, error) {
	buffered := bufio.NewReaderSize(conn, 1<<20)
	place, err := wire.ReadCheckpoint(buffered)
	if err != nil {
		return nil, fmt.Errorf("receive the primary's machine: %w", err)
	}
	config, err := ConfigOf(&place.Header)
	if err != nil {
		return nil, fmt.Errorf("receive the primary's machine: %w", err)
	}
	adapt(&config)
	m, err := New(system, config)
	if err != nil {
		return nil, err
	}
	if err := m.LoadSaved(buffered); err != nil {
		return nil, errors.Join(fmt.Errorf("receive the primary's machine: %w", err), m.Close())
	}
	f := &Follower{Machine: m}
	f.inbox = lockstep.NewInbox(buffered, func(sequence uint64) {
		var ack [ackBytes]byte
		binary.LittleEndian.PutUint64(ack[:], sequence)
		_, _ = conn.Write(ack[:]) // a connection that fails here fails in reading as well
	})
	m.follow(f.inbox)
	return f, nil
}

// follow gives the machine a door to a log that is still being written.
func (m *Machine) follow(source lockstep.Source) {
	start, base := time.Now(), m.time()
	m.door = lockstep.NewFollower(base, m.position, source, func() int64 { return base + int64(time.Since(start)) })
	m.live, m.recorder, m.digested, m.following = nil, nil, true, true
	m.pageReader = nil
}

// GoLive lets the machine go on by itself once Run has returned.
func (f *Follower) GoLive() { f.Machine.GoLive() }

// Close releases the machine.
func (f *Follower) Close() error {
	f.inbox.Close()
	return f.Machine.Close()
}
