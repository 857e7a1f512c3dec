package doctor

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"tandem/kvm"
)

// counterLoops is how many iterations of a loop are counted; the counter is to overflow about halfway.
const counterLoops = 20000

// lookCounter counts a guest's instructions with a counter of the host's that stands still outside the guest, and
// that overflows on the way (perf_event_open(2)).
func lookCounter(x *examination) (finding, error) {
	fd, err := openCounter()
	if err != nil {
		return lacking("perf_event_open: %v", err), nil
	}
	defer unix.Close(fd)
	// Overflows are seen by poll, and poll needs the ring buffer: a control page and one of data.
	ring, err := unix.Mmap(fd, 0, 2*unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return lacking("ring buffer of the counter: %v", err), nil
	}
	defer unix.Munmap(ring)
	return x.with(func(g *guest) (finding, error) { return g.count(fd) })
}

// openCounter opens a counter of the calling thread's instructions inside guests, disabled.
func openCounter() (int, error) {
	attr := unix.PerfEventAttr{
		Type: unix.PERF_TYPE_HARDWARE, Config: unix.PERF_COUNT_HW_INSTRUCTIONS,
		Size: unix.PERF_ATTR_SIZE_VER5, Sample: counterLoops * loopInstructions / 2, Sample_type: unix.PERF_SAMPLE_IP,
		Wakeup: 1, Bits: unix.PerfBitDisabled | unix.PerfBitExcludeHost | unix.PerfBitPinned,
	}
	return unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
}

func (g *guest) count(fd int) (finding, error) {
	if err := g.load(countDown, start{rcx: counterLoops}); err != nil {
		return finding{}, err
	}
	if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0); err != nil {
		return lacking("enabling the counter: %v", err), nil
	}
	var exit kvm.Exit
	if err := g.enter(&exit); err != nil {
		return finding{}, err
	}
	if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_DISABLE, 0); err != nil {
		return finding{}, err
	}
	counted, err := readCounter(fd)
	if err != nil {
		return lacking("%v", err), nil
	}
	// A few instructions more belong to the way in and out.
	const exact = counterLoops * loopInstructions
	if counted < exact || counted > exact+exact/10 {
		return lacking("%d instructions counted of %d", counted, exact), nil
	}
	ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(ready, 0); err != nil || n == 0 {
		return lacking("counts, but its overflow is not reported"), nil
	}
	return found("%d instructions counted of %d, overflow reported", counted, exact), nil
}

func readCounter(fd int) (uint64, error) {
	var buf [8]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return 0, err
	}
	if n != len(buf) {
		return 0, errNotScheduled
	}
	return binary.LittleEndian.Uint64(buf[:]), nil
}

var (
	errNotKept      = errors.New("not kept")
	errNotScheduled = errors.New("the counter was never on the processor")
)
