package lockstep

import (
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// sleeper lets one thread sleep until a time or until another wakes it. The thread waits in the kernel and is woken from
// there: a Go timer and a channel would need two more goroutines and as many switches of threads for each tick of an idle
// guest.
type sleeper struct {
	fd     int // an eventfd
	asleep atomic.Bool
}

func newSleeper() *sleeper {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		panic(fmt.Sprintf("lockstep: eventfd: %v", err)) // only for want of file descriptors or memory
	}
	return &sleeper{fd: fd}
}

// sleep returns after the given time, or after wake, or when ready says so, or sometimes for no reason. Without a limit it
// has no time to return at.
func (s *sleeper) sleep(limit time.Duration, limited bool, ready func() bool) {
	s.asleep.Store(true)
	defer s.asleep.Store(false)
	if ready() { // it may have become so before asleep was seen
		return
	}
	var timeout *unix.Timespec
	if limited {
		t := unix.NsecToTimespec(int64(max(limit, 0)))
		timeout = &t
	}
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
	if n, _ := unix.Ppoll(fds, timeout, nil); n > 0 {
		var count [8]byte
		_, _ = unix.Read(s.fd, count[:]) // takes the count back to 0
	}
}

// wake ends a sleep and tells whether there was one.
func (s *sleeper) wake() bool {
	if !s.asleep.Load() {
		return false
	}
	_, _ = unix.Write(s.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // fails only if it is full, and then it wakes as well
	return true
}

func (s *sleeper) close() { _ = unix.Close(s.fd) }
