package lockstep

import (
	"fmt"
	"sync"
	"time"

	"tandem/lockstep/wire"
)

// Log takes the records of a machine. Append may wait, which stalls the guest; it never drops. *wire.Ring is one.
type Log interface {
	Append(r *wire.Record) error
	// Flush makes what was appended visible to the log's readers.
	Flush() error
}

// RecorderOptions says how a machine is recorded.
type RecorderOptions struct {
	// MaxDefer is how long an input may wait for the guest's next exit before the guest is stopped where it is.
	MaxDefer time.Duration
	// MinRun is how long the guest runs between two forced stops at the least. It runs longer where stops are dear, so that
	// ticks never eat it: stopCostFactor times as long as the last stop took.
	MinRun time.Duration
	// KernelPatience, if not 0, is how long an input waits beyond that while the guest is in its kernel, booted or not;
	// by default kernelPatience and bootPatience.
	KernelPatience time.Duration
	// StopCost tells about how long a forced stop would take now; nil: no time. The machine's goroutine calls it.
	StopCost func() time.Duration
	// DigestEvery is after how many exits a digest is logged.
	DigestEvery uint64
	// Kick makes the vCPU come out of the guest, or not enter it the next time. It may be called from any goroutine.
	Kick func()
}

// Defaults of RecorderOptions.
const (
	DefaultMaxDefer    = 2 * time.Millisecond
	DefaultMinRun      = 2 * time.Millisecond
	DefaultDigestEvery = 256
)

// stopCostFactor keeps the cost of forced stops to a twentieth of the guest's time, and about as much again that a stop
// costs afterwards, when the guest writes to pages whose writes have to be noticed anew.
const stopCostFactor = 20

// maxFloor bounds what a dear stop makes of MinRun: the first stop of a guest is dear, since it carries every page that
// was written until then.
const maxFloor = 500 * time.Millisecond

// kernelPatience is how long an input waits while the guest is seen in its kernel whenever the vCPU is kicked: a kernel
// soon comes to an exit or back to a program. bootPatience is that for a guest that has not been seen in a program yet:
// a kernel that boots has long stretches without an exit, in which nobody misses a tick.
const (
	kernelPatience = 20 * time.Millisecond
	bootPatience   = 2 * time.Second
)

// putOffFactor is how many times as long as a forced stop would take it is put off, and maxPutOff bounds that. A program that
// begins writes some hundred pages, and soon comes to an exit.
const (
	putOffFactor = 4
	maxPutOff    = 500 * time.Millisecond
)

func (o *RecorderOptions) complete() {
	if o.MaxDefer <= 0 {
		o.MaxDefer = DefaultMaxDefer
	}
	if o.MinRun <= 0 {
		o.MinRun = DefaultMinRun
	}
	if o.DigestEvery == 0 {
		o.DigestEvery = DefaultDigestEvery
	}
}

// Recorder is the door of a machine whose inputs come from the world and go into a log, each with the position at which
// it entered.
type Recorder struct {
	*Live
	log      Log
	options  RecorderOptions
	position Position
	digested Position
	flushed  int64       // guest time in ns at the last Flush
	record   wire.Record // reused, so that a record costs no allocation
	err      error

	mu sync.Mutex
	// deferring is true while a goroutine waits to see whether the guest exits by itself.
	deferring bool
	since     time.Time // when the input came that is being deferred
	stopping  time.Time // when the last forced stop began
	floor     time.Time // before this there is no other
	seen      bool      // the guest has been seen in a program; the machine's goroutine's alone
	force     bool      // the guest was kicked because an input has waited long enough
}

// NewRecorder returns a door whose guest clock stands at base ns, at the given position.
func NewRecorder(base int64, at Position, log Log, options RecorderOptions) *Recorder {
	r := Attach(NewLive(base, options.Kick), at, log, options)
	r.seen = false
	return r
}

// Attach returns a door that goes on where a live one stands, at the given position, and logs every input from then on.
// What is queued at the live door, and its clock, are the recorder's. A guest that runs is taken to have booted. It belongs
// to the machine's goroutine.
func Attach(live *Live, at Position, log Log, options RecorderOptions) *Recorder {
	options.complete()
	r := &Recorder{Live: live, log: log, options: options, position: at, digested: at, seen: true}
	live.sampled = false // whoever follows the log from here has not sampled the clock either
	notify := r.deferKick
	live.notify.Store(&notify)
	return r
}

// Detach ends the log: the live door goes on by itself, and calls notify as NewLive says. It belongs to the machine's
// goroutine.
func (r *Recorder) Detach(notify func()) *Live {
	r.Live.notify.Store(&notify)
	return r.Live
}

// Output logs that something leaves the machine at the present position. Flush must follow when all that leaves
// there is logged.
func (r *Recorder) Output(of Kind, device uint8, bytes int, hash uint64) {
	r.append(wire.KindOutput, func(w *wire.Record) { w.Of, w.Device, w.Length, w.Hash = of, device, uint64(bytes), hash })
}

func (r *Recorder) append(kind Kind, fill func(*wire.Record)) {
	if r.err != nil {
		return
	}
	r.record = wire.Record{Kind: kind, Position: uint64(r.position)}
	if fill != nil {
		fill(&r.record)
	}
	if err := r.log.Append(&r.record); err != nil {
		r.err = fmt.Errorf("write the log: %w", err)
	}
}

// At implements Door.
func (r *Recorder) At(p Position) {
	r.position = p
	r.Live.At(p)
}

// Now implements Clock.
func (r *Recorder) Now() int64 {
	if !r.sampled {
		r.Live.Now()
		r.append(KindClock, func(w *wire.Record) { w.Time = r.time })
	}
	return r.time
}

// Exit implements Door.
func (r *Recorder) Exit(hash uint64, registers *wire.Registers) {
	if r.position-r.digested < Position(r.options.DigestEvery) {
		return
	}
	r.digested = r.position
	r.append(wire.KindDigest, func(w *wire.Record) { w.Time, w.Hash, w.Registers = r.time, hash, registers })
}

// Next implements Door.
func (r *Recorder) Next(w Waiting) (Input, bool) {
	in, ok := r.Live.Next(w)
	if ok {
		r.append(in.Kind, func(w *wire.Record) {
			w.Device, w.Payload = in.Device, in.Payload
			if in.Kind == KindClock {
				w.Time = r.time
			}
		})
	}
	if r.time-r.flushed >= flushEveryNS {
		r.Flush()
	}
	return in, ok
}

// flushEveryNS is after how much guest time what was logged is let go to the log's readers, if nobody asks before.
const flushEveryNS = 100_000_000

// Flush lets everything logged go to the log's readers.
func (r *Recorder) Flush() {
	r.flushed = r.time
	if r.err == nil {
		if err := r.log.Flush(); err != nil {
			r.err = fmt.Errorf("write the log: %w", err)
		}
	}
}

// Interrupted implements Door.
func (r *Recorder) Interrupted(inProgram func() bool) Interruption {
	r.mu.Lock()
	defer r.mu.Unlock()
	force := r.force
	r.force = false
	if !force || !r.bell.Load() {
		return GoOn
	}
	now := time.Now()
	waited := now.Sub(r.since)
	if waited < r.patienceWithKernel() && !r.sees(inProgram) {
		return r.putOff(r.options.MaxDefer)
	}
	if left := r.worthWaiting() - waited; left > 0 {
		return r.putOff(left)
	}
	r.stopping = now
	return Stop
}

// putOff gives the guest more time to exit by itself. The caller holds mu.
func (r *Recorder) putOff(by time.Duration) Interruption {
	r.floor = time.Now().Add(by)
	r.deferring = true
	time.AfterFunc(by, r.stopWaiting)
	return GoOn
}

// worthWaiting returns how long an input waits at the least because a forced stop is dear: putOffFactor times as long as the stop
// would take. It mostly comes at an exit then, which costs nothing.
func (r *Recorder) worthWaiting() time.Duration {
	if r.options.StopCost == nil {
		return 0
	}
	return min(putOffFactor*r.options.StopCost(), maxPutOff)
}

func (r *Recorder) patienceWithKernel() time.Duration {
	switch {
	case r.options.KernelPatience != 0:
		return r.options.KernelPatience
	case r.seen:
		return kernelPatience
	}
	return bootPatience
}

// sees asks whether the guest is in a program, and remembers that it has been.
func (r *Recorder) sees(inProgram func() bool) bool {
	if !inProgram() {
		return false
	}
	r.seen = true
	return true
}

// Booted tells whether the guest has been seen in a program. It belongs to the machine's goroutine.
func (r *Recorder) Booted() bool { return r.seen }

// Stopped implements Door. The clock may be sampled anew behind a stop, since time has gone on.
func (r *Recorder) Stopped(part []byte, last bool) {
	r.append(KindDelta, func(w *wire.Record) { w.Payload, w.Last = part, last })
	if last {
		r.sampled = false
		r.mu.Lock()
		now := time.Now()
		r.floor = now.Add(max(r.options.MinRun, min(maxFloor, stopCostFactor*now.Sub(r.stopping))))
		r.mu.Unlock()
	}
}

// Checkpoint logs that the machine was saved here. The clock may be sampled anew behind it, as in a machine that is made
// from what was saved.
func (r *Recorder) Checkpoint(number uint64) {
	r.append(KindCheckpoint, func(w *wire.Record) { w.Number, w.Time = number, r.time })
	r.sampled = false
}

// Memory logs the hashes of pages from first on, as wire.AppendPageHash makes them.
func (r *Recorder) Memory(first uint64, hashes []byte) {
	r.append(KindMemory, func(w *wire.Record) { w.Number, w.Payload = first, hashes })
}

// Devices logs the hashes of the devices' states, as wire.AppendPageHash makes them.
func (r *Recorder) Devices(hashes []byte) {
	r.append(KindDevices, func(w *wire.Record) { w.Payload = hashes })
}

// End logs the machine's end.
func (r *Recorder) End(cause wire.Cause, message string) {
	r.append(KindEnd, func(w *wire.Record) { w.Cause, w.Time, w.Payload = cause, r.time, []byte(message) })
	r.Flush()
}

// Err implements Door.
func (r *Recorder) Err() error { return r.err }

// deferKick is called when the machine should come to the door while the guest runs. An exit of the guest's own is a
// better place than any that a kick could make, so that it is waited for.
func (r *Recorder) deferKick() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.since = time.Now()
	if !r.deferring {
		r.deferring = true
		time.AfterFunc(r.patience(), r.stopWaiting)
	}
}

// patience returns how much longer the input may wait.
func (r *Recorder) patience() time.Duration {
	return max(time.Until(r.since.Add(r.options.MaxDefer)), time.Until(r.floor))
}

func (r *Recorder) stopWaiting() {
	r.mu.Lock()
	r.deferring = false
	if !r.bell.Load() { // the guest has come by itself
		r.mu.Unlock()
		return
	}
	if left := r.patience(); left > 0 { // for an earlier input; this one is younger
		r.deferring = true
		time.AfterFunc(left, r.stopWaiting)
		r.mu.Unlock()
		return
	}
	r.force = true
	r.mu.Unlock()
	r.options.Kick()
}
