package lockstep

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"tandem/lockstep/wire"
)

// maxQueuedInputs bounds the inputs that wait at a live door. A source that finds it full waits in Post.
const maxQueuedInputs = 1024

// maxQueuedFrames bounds the received frames among them, so that a flood leaves room for what must not be dropped.
const maxQueuedFrames = 512

// maxQueuedTyped bounds the console inputs among them: what is typed at a guest that does not read may wait for ever, and
// must not keep its disks' completions out.
const maxQueuedTyped = 256

// maxTickLagNS is how late the earliest deadline may be before the clock leaps to the present instead of going from one
// deadline to the next: a guest whose host was away does not live through every instant of the time.
const maxTickLagNS = 20_000_000

// maxStepNS is how far the clock moves at once at the most. Linux takes the ACPI PM timer for one of 24 bits, which wraps after
// 4.69 s: a guest that reads it before and after a longer pause loses a multiple of that. So its clock comes to the present
// in steps, and the next step is made when the guest has looked.
const maxStepNS = 2_000_000_000

// ticksToLook is how many ticks a guest gets to do so. One that boots does not look yet, and is not to live through every
// tick of the time that its host was away.
const ticksToLook = 2

// ErrDoorClosed says that the machine behind a door has ended.
var ErrDoorClosed = errors.New("the machine has ended")

// Live is the door of a machine whose inputs come from the world. Post may be called from any goroutine.
type Live struct {
	start  time.Time // host time at which the guest clock was base
	base   int64
	notify atomic.Pointer[func()]

	// The rest of the first group belongs to the machine's goroutine.
	time    int64 // the guest clock's latest value in ns
	sampled bool  // Now has been called at this position
	looked  bool  // Now has been called since the clock last leapt
	ticks   int   // how many ticks the guest has had since then to do so
	armed   bool  // there is an alarm, at guest time alarmAt
	alarmAt int64
	alarm   *time.Timer
	running bool   // alarm is running, since the guest is too
	alarms  uint64 // how many alarms there were: the number of the present one

	// rung is the number of the last alarm that went off. An alarm that was replaced while it went off is thus told
	// from the present one.
	rung atomic.Uint64

	bell    atomic.Bool // something has happened since the last Next
	sleeper *sleeper

	queued atomic.Int32 // len(queue), to look without the lock

	mu     sync.Mutex
	room   *sync.Cond // queue has become shorter, or the door is closed
	queue  []Input    // Invariant: len(queue) <= maxQueuedInputs
	frames int        // how many of queue are frames
	typed  int        // how many of queue are for consoles
	closed bool
}

// NewLive returns a door whose guest clock stands at base ns now. notify is called, from any goroutine, whenever the
// machine should come to the door: it makes a running guest exit.
func NewLive(base int64, notify func()) *Live {
	l := &Live{start: time.Now(), base: base, time: base, looked: true, sleeper: newSleeper()}
	l.notify.Store(&notify)
	l.room = sync.NewCond(&l.mu)
	return l
}

// Post queues an input and returns when it is queued; it waits while the queue is full, or has as much typed as it may. After Close it returns
// ErrDoorClosed.
func (l *Live) Post(in Input) error {
	l.mu.Lock()
	for l.full(in.Kind) && !l.closed {
		l.room.Wait()
	}
	if l.closed {
		l.mu.Unlock()
		return ErrDoorClosed
	}
	l.enqueue(in)
	l.mu.Unlock()
	l.Wake()
	return nil
}

// full tells whether an input of a kind has to wait. The caller holds the lock.
func (l *Live) full(kind Kind) bool {
	return len(l.queue) >= maxQueuedInputs || kind == KindConsole && l.typed >= maxQueuedTyped
}

// Offer queues a frame, or returns false if as many wait already as may: a network drops what nobody takes.
func (l *Live) Offer(in Input) bool {
	l.mu.Lock()
	if l.closed || l.frames >= maxQueuedFrames || len(l.queue) >= maxQueuedInputs {
		l.mu.Unlock()
		return false
	}
	l.enqueue(in)
	l.mu.Unlock()
	l.Wake()
	return true
}

// enqueue appends to the queue. The caller holds the lock and has seen that there is room.
func (l *Live) enqueue(in Input) {
	switch in.Kind {
	case KindFrame:
		l.frames++
	case KindConsole:
		l.typed++
	}
	l.queue = append(l.queue, in)
	l.queued.Store(int32(len(l.queue)))
}

// Wake makes the machine come to the door, from Wait or from running the guest.
func (l *Live) Wake() {
	if l.bell.Swap(true) {
		return // it has been told, and has not looked yet
	}
	if l.sleeper.wake() {
		return
	}
	(*l.notify.Load())()
}

// Close lets sources go that wait in Post. Inputs still queued are dropped with the machine.
func (l *Live) Close() {
	l.mu.Lock()
	l.closed = true
	l.room.Broadcast()
	l.mu.Unlock()
	l.halt()
	l.sleeper.close()
}

// At implements Door.
func (l *Live) At(Position) { l.sampled = false }

// Time implements Door.
func (l *Live) Time() int64 { return l.time }

// Now implements Clock.
func (l *Live) Now() int64 {
	if !l.sampled {
		l.sampled = true
		l.looked = true
		l.time = max(l.time, min(l.hostTime(), l.time+maxStepNS))
	}
	return l.time
}

func (l *Live) hostTime() int64 { return l.base + int64(time.Since(l.start)) }

// Next implements Door.
func (l *Live) Next(w Waiting) (Input, bool) {
	if l.bell.Load() {
		l.bell.Store(false)
	}
	l.setAlarm(w)
	if l.due() {
		l.armed = false
		if late := l.hostTime() - w.Deadline; late > maxTickLagNS && l.mayLeap(late) {
			l.sampled, l.time = true, max(l.time, w.Deadline, min(w.Deadline+late, l.time+maxStepNS))
			return Input{Kind: KindClock}, true
		}
		l.time = max(l.time, w.Deadline)
		return Input{Kind: KindTick}, true
	}
	if l.queued.Load() == 0 {
		return Input{}, false
	}
	return l.take(w.Room)
}

// mayLeap tells whether the clock may leap now for being so late. After a step that was not all of the way the guest gets a
// few ticks to look: it does so at a tick, if it goes by a clock at all.
func (l *Live) mayLeap(late int64) bool {
	if late > maxStepNS && !l.looked && l.ticks < ticksToLook {
		l.ticks++
		return false
	}
	l.looked, l.ticks = false, 0
	return true
}

// take removes the first queued input that its device has room for, or as much of it as there is room for if it is a
// piece of a stream. Inputs of one device stay in order: behind one that has to wait, all others of its device wait too.
func (l *Live) take(room func(Kind, uint8, []byte) int) (Input, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var full [256]uint16 // by device, a bit for each kind
	for i := 0; i < len(l.queue); {
		in := l.queue[i]
		bit := uint16(1) << in.Kind
		if full[in.Device]&bit != 0 {
			i++
			continue
		}
		switch n := room(in.Kind, in.Device, in.Payload); {
		case n < 0:
			l.remove(i)
		case n == 0:
			full[in.Device] |= bit
			i++
		case in.Kind == KindConsole && n < len(in.Payload):
			l.queue[i].Payload = in.Payload[n:]
			in.Payload = in.Payload[:n:n]
			return in, true
		default:
			l.remove(i)
			return in, true
		}
	}
	return Input{}, false
}

// remove takes an input out of the queue. The caller holds the lock.
func (l *Live) remove(i int) {
	switch l.queue[i].Kind {
	case KindFrame:
		l.frames--
	case KindConsole:
		l.typed--
	}
	l.queue = append(l.queue[:i], l.queue[i+1:]...)
	l.queued.Store(int32(len(l.queue)))
	l.room.Broadcast() // not all who wait there wait for the same
}

// Looked tells whether the machine has come to the door since something last happened. It may be called from any
// goroutine.
func (l *Live) Looked() bool { return !l.bell.Load() }

// Pending implements Door.
func (l *Live) Pending() bool {
	l.arm()
	return l.bell.Load() || l.due()
}

// setAlarm takes note of the machine's earliest deadline. The alarm runs only while the guest does: see arm.
func (l *Live) setAlarm(w Waiting) {
	if l.armed == w.Armed && (!w.Armed || l.alarmAt == w.Deadline) {
		return
	}
	l.armed, l.alarmAt = w.Armed, w.Deadline
	l.alarms++
	l.halt()
}

// arm lets the alarm run, which makes due become true and calls the machine to the door when the deadline has come on
// the host's clock.
func (l *Live) arm() {
	if !l.armed || l.running {
		return
	}
	number := l.alarms
	delay := l.alarmAt - l.hostTime()
	if delay <= 0 {
		l.ring(number)
		return
	}
	l.running = true
	l.alarm = time.AfterFunc(time.Duration(delay), func() {
		l.ring(number)
		l.Wake()
	})
}

// halt stops the alarm if it runs.
func (l *Live) halt() {
	if l.running {
		l.alarm.Stop()
		l.running = false
	}
}

// ring notes that an alarm has gone off, unless a later one has already.
func (l *Live) ring(number uint64) {
	for {
		old := l.rung.Load()
		if old >= number || l.rung.CompareAndSwap(old, number) {
			return
		}
	}
}

// due tells whether the present alarm has gone off.
func (l *Live) due() bool { return l.armed && l.rung.Load() == l.alarms }

// Wait implements Door.
func (l *Live) Wait(w Waiting) {
	l.setAlarm(w)
	if l.due() {
		return
	}
	l.halt()
	l.sleeper.sleep(time.Duration(l.alarmAt-l.hostTime()), l.armed, l.bell.Load)
	if l.armed && l.hostTime() >= l.alarmAt {
		l.ring(l.alarms)
	}
}

// Exit implements Door: nobody follows a live machine.
func (l *Live) Exit(uint64, *wire.Registers) {}

// Interrupted implements Door: a live machine may take an input anywhere.
func (l *Live) Interrupted(func() bool) Interruption { return Look }

// Stopped implements Door. It is never called, since Interrupted never asks for a stop.
func (l *Live) Stopped([]byte, bool) { panic("lockstep: forced stop of a live machine") }

// Err implements Door.
func (l *Live) Err() error { return nil }
