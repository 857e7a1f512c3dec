package vmm

import (
	"fmt"

	"github.com/cespare/xxhash/v2"

	"tandem/devices"
	"tandem/lockstep"
	"tandem/lockstep/wire"
)

// Output is something that leaves a machine of a pair: frames, console bytes, and what changes a shared disk. It is caused by all
// records of the log up to its own, which has number Sequence, so that a peer that has executed that record has made the same
// output.
type Output struct {
	Sequence uint64
	// Release lets it go, in the goroutine that calls it, which may wait if nobody takes it. That of a disk does nothing on a
	// machine that follows: what it has to do again when it takes over, its disk knows.
	Release func()
	// Kind is KindConsole, KindFrame or KindDisk, Device which of those. Data is what leaves; it must not be changed. It is nil for
	// a disk, which bounds what it has under way itself.
	Kind   lockstep.Kind
	Device uint8
	Data   []byte
}

// outputMode says what becomes of output.
type outputMode uint8

const (
	outputFree      outputMode = iota // it leaves at once
	outputHeld                        // it is logged, and leaves when the pair says so
	outputFollowing                   // the primary makes the same; it is compared with the log
)

// outputs are a machine's outlets and what waits at them. They belong to the machine's goroutine.
type outputs struct {
	mode    outputMode
	outlets []*outlet
	packets []packet // made since the last position and not logged; of a follower: whose record has not come yet
	hold    func(Output)
	ring    *wire.Ring // mode outputHeld
}

type packet struct {
	outlet *outlet
	bytes  []byte
	change *diskChange // of a disk, in place of bytes
}

// sum returns what a record has of a packet.
func (p *packet) sum() (bytes int, hash uint64) {
	if p.change != nil {
		return p.change.sum()
	}
	return len(p.bytes), xxhash.Sum64(p.bytes)
}

// send lets a packet go.
func (p *packet) send() {
	if p.change != nil {
		p.change.release()
		return
	}
	p.outlet.send(p.bytes)
}

// outlet is a sink between a device and the world.
type outlet struct {
	machine *Machine
	kind    lockstep.Kind
	device  uint8
	world   devices.Sink // nil: nobody listens
	text    []byte       // of a console, as packets
	since   int64        // guest time in ns at which text began
}

// debugConsole is port 0xe9, as records of output name it.
const debugConsole = 0xff

// outlet returns the sink of a device whose output goes to world. Machines with equal configurations have equal outlets,
// wherever they lead.
func (m *Machine) outlet(kind lockstep.Kind, device uint8, world devices.Sink) *outlet {
	o := &outlet{machine: m, kind: kind, device: device, world: world}
	m.outputs.outlets = append(m.outputs.outlets, o)
	return o
}

// Output implements devices.Sink.
func (o *outlet) Output(p []byte) {
	switch out := &o.machine.outputs; {
	case out.mode == outputFree:
		o.send(p)
	case o.kind == lockstep.KindConsole:
		if len(o.text) == 0 {
			o.since = o.machine.time()
		}
		o.text = append(o.text, p...)
	default:
		out.packets = append(out.packets, packet{outlet: o, bytes: p})
	}
}

func (o *outlet) send(p []byte) {
	if o.world != nil {
		o.world.Output(p)
	}
}

// output returns the output that p is, caused by record number sequence.
func (p packet) output(sequence uint64) Output {
	o := Output{Sequence: sequence, Release: func() { p.send() }, Kind: p.outlet.kind, Device: p.outlet.device, Data: p.bytes}
	if p.change != nil {
		o.Release = p.change.release // without the data, which the disk has
	}
	return o
}

// How much text a console collects before it leaves: a record for each byte would be most of a booting guest's log.
const (
	textBytes  = 128
	textWaitNS = 10_000_000
)

// due tells whether a console's text is to leave. idle says that the guest has nothing to do.
func (o *outlet) due(idle bool) bool {
	n := len(o.text)
	return n > 0 && (idle || n >= textBytes || o.text[n-1] == '\n' || o.machine.time()-o.since >= textWaitNS)
}

// commitOutputs logs what the guest has put out and hands it over. The machine stands at a position whose inputs are
// applied. Text of a console may wait a little, but not where the guest is idle.
func (m *Machine) commitOutputs(idle bool) {
	out := &m.outputs
	if out.mode != outputHeld {
		return
	}
	made := false
	commit := func(p packet) {
		bytes, hash := p.sum()
		out.hold(p.output(out.ring.Base().Sequence)) // before its record can be seen
		m.recorder.Output(p.outlet.kind, p.outlet.device, bytes, hash)
		made = true
	}
	for _, p := range out.packets {
		commit(p)
	}
	out.packets = out.packets[:0]
	for _, o := range out.outlets {
		if o.due(idle) {
			commit(packet{outlet: o, bytes: o.text})
			o.text = nil
		}
	}
	if made {
		m.recorder.Flush() // what gates output goes at once
	}
}

// checkOutput compares what the primary has put out with what this machine has, which is handed over.
func (m *Machine) checkOutput(in lockstep.Input) error {
	out := &m.outputs
	if out.mode != outputFollowing {
		return nil // a recording that is replayed
	}
	p, ok := out.take(in)
	if !ok {
		return m.outputDiffers("the log has output of %d bytes of %v %d that the machine did not make", in.Length, in.Of, in.Device)
	}
	if bytes, hash := p.sum(); uint64(bytes) != in.Length || hash != in.Hash {
		return m.outputDiffers("output of %d bytes of %v %d differs from the log's of %d", bytes, in.Of, in.Device, in.Length)
	}
	out.hold(p.output(m.follows + m.follower.Used() - 1))
	return nil
}

// take removes the oldest output of a device, of a console as much as the record tells.
func (out *outputs) take(in lockstep.Input) (packet, bool) {
	for i, p := range out.packets {
		if p.outlet.kind == in.Of && p.outlet.device == in.Device {
			out.packets = append(out.packets[:i], out.packets[i+1:]...)
			return p, true
		}
	}
	for _, o := range out.outlets {
		if in.Of == lockstep.KindConsole && o.kind == in.Of && o.device == in.Device && len(o.text) > 0 {
			n := min(uint64(len(o.text)), in.Length)
			p := o.text[:n:n]
			o.text = o.text[n:]
			return packet{outlet: o, bytes: p}, true
		}
	}
	return packet{}, false
}

func (m *Machine) outputDiffers(format string, args ...any) error {
	return &lockstep.Divergence{Position: m.position, What: fmt.Sprintf(format, args...)}
}

// freeOutputs lets everything go that waits at the outlets, and from now on all output at once.
func (m *Machine) freeOutputs() {
	out := &m.outputs
	out.mode = outputFree
	for _, p := range out.packets {
		p.send()
	}
	out.packets = nil
	for _, o := range out.outlets {
		if len(o.text) > 0 {
			o.send(o.text)
			o.text = nil
		}
	}
	out.hold, out.ring = nil, nil
}
