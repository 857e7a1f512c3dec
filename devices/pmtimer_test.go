package devices

import (
	"bytes"
	"encoding/binary"
	"math/big"
	"testing"
)

func TestPMTimer(t *testing.T) {
	for _, ns := range []int64{0, 279, 280, 17600, secondNS, 3600 * secondNS, 1 << 62} {
		pc := newTestPC(t)
		pc.clock.now = ns
		want := new(big.Int).Mul(big.NewInt(ns), big.NewInt(315)) // 315/88 MHz
		want.Div(want, big.NewInt(88000)).And(want, big.NewInt(1<<24-1))
		var p [4]byte
		pc.Ports.Read(PMTimerPort, p[:])
		if got := binary.LittleEndian.Uint32(p[:]); int64(got) != want.Int64() {
			t.Errorf("%d ticks at %d ns, want %v", got, ns, want)
		}
		var low, high [2]byte
		pc.Ports.Read(PMTimerPort, low[:])
		pc.Ports.Read(PMTimerPort+2, high[:])
		if !bytes.Equal(append(low[:], high[:]...), p[:]) {
			t.Errorf("halves % x % x differ from the whole % x", low, high, p)
		}
	}
}

func TestPMTimerIsReadOnly(t *testing.T) {
	pc := newTestPC(t)
	pc.Ports.Write(PMTimerPort, []byte{1, 2, 3, 4})
	pc.expect(PMTimerPort, 0, "the PM timer after a write")
}
