package vmm

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/kvm"
	"tandem/testdata/guests"
)

// A machine that has been run on one thread, as one that followed a peer's has, and is run on another one afterwards, can be
// taken out of a guest that computes.
func TestMachineOnAnotherThread(t *testing.T) {
	g := loadGuest(t, guests.Image("halt"), 0)
	var regs kvm.Regs
	if err := g.vcpu.Regs(&regs); err != nil {
		t.Fatal(err)
	}
	const counter = 0x1000000
	counting := []byte{0x48, 0xff, 0x04, 0x25, 0x00, 0x00, 0x00, 0x01, 0xeb, 0xf6} // 1: incq counter; jmp 1b
	if err := g.memory.WriteAt(counting, regs.RIP); err != nil {
		t.Fatal(err)
	}
	count, err := g.memory.Bytes(counter, 8)
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	defer close(over)
	var threads []int
	for range 2 {
		ended := make(chan error, 1)
		go func() {
			runtime.LockOSThread() // to its end: the thread is not the next one's
			threads = append(threads, unix.Gettid())
			_, err := g.Run()
			err = errors.Join(err, unix.PthreadSigmask(unix.SIG_BLOCK, &unix.Sigset_t{Val: [16]uint64{1 << (unix.SIGURG - 1)}}, nil))
			ended <- err
			<-over
		}()
		for before := string(count); string(count) == before; { // it is in the guest
			runtime.Gosched()
		}
		g.Stop()
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(guestDeadline):
			panic("the machine does not stop: it can't be closed either")
		}
		g.GoLive()
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/status", threads[0]))
	if err != nil {
		t.Fatal(err)
	}
	_, pending, _ := strings.Cut(string(status), "SigPnd:")
	if !strings.HasPrefix(strings.TrimSpace(pending), strings.Repeat("0", 16)) {
		t.Error("the thread that ran the machine first was kicked")
	}
}
