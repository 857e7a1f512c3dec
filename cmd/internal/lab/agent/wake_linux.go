package agent

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// hpetDevice gives programs the timers of the HPET that the kernel doesn't use itself.
const hpetDevice = "/dev/hpet"

// Requests of linux/hpet.h.
const (
	hpetInterruptsOn = 0x6801     // HPET_IE_ON, _IO('h', 0x01)
	hpetPeriodic     = 0x6804     // HPET_EPI, _IO('h', 0x04)
	hpetFrequency    = 0x40086806 // HPET_IRQFREQ, _IOW('h', 0x6, unsigned long)
)

// wakeHz bounds what an interrupt that QEMU loses costs to 1/wakeHz s.
const wakeHz = 20

// keepAwake lets a periodic timer interrupt this host for as long as the
// process lives.
//
// QEMU's TCG changes the mask of a CPU's pending interrupts without the lock
// that other threads take, when it leaves a nested guest (do_vmexit in
// target/i386/tcg/system/svm_helper.c): a request that another thread makes at
// that instant is lost. The interrupt stays in the local APIC, but nothing tells
// the CPU. If it was that of the one-shot timer and the CPU goes on to HLT, it
// sleeps until some other interrupt comes, which may be never. This is that other
// interrupt; nobody need read it.
func keepAwake(device string) error {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", device, err)
	}
	for _, request := range []struct {
		number uint
		value  int
	}{{hpetFrequency, wakeHz}, {hpetPeriodic, 0}, {hpetInterruptsOn, 0}} {
		if err := unix.IoctlSetInt(fd, request.number, request.value); err != nil {
			unix.Close(fd)
			return fmt.Errorf("request %#x of %s: %w", request.number, device, err)
		}
	}
	return nil // the descriptor stays open: closing it stops the timer
}
