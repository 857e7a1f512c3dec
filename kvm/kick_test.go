package kvm

import "testing"

// TestClearKickBetweenKicksStores replays the one order in which ClearKick could leave immediate_exit set for ever: Kick
// sets kicked, then the flag, and ClearKick comes between the two.
func TestClearKickBetweenKicksStores(t *testing.T) {
	c := &VCPU{run: &runPage{}}
	c.run.setInterruptWindow(true)
	c.run.setImmediateExit(true) // an earlier kick
	c.kicked.Store(true)         // Kick, first store
	c.ClearKick()
	c.run.setImmediateExit(true) // Kick, second store
	if !c.run.immediateExitSet() {
		t.Fatal("the kick is lost")
	}
	c.ClearKick()
	if c.run.immediateExitSet() || c.kicked.Load() {
		t.Error("the kick stays for ever")
	}
	if c.run.requestInterruptWindow != 1 {
		t.Error("the request for an interrupt window is gone")
	}
}
