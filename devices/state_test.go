package devices

import (
	"bytes"
	"strings"
	"testing"
)

// TestStateIsStrict alters each part's state in ways that no part writes.
func TestStateIsStrict(t *testing.T) {
	pc := newTestPC(t)
	states := pc.states()
	for i, part := range pc.Parts() {
		state := string(states[i])
		field, rest, _ := strings.Cut(state[1:], ",")
		for what, bad := range map[string]string{
			"empty":             "",
			"nothing in it":     "{}",
			"not JSON":          state[:len(state)-1],
			"an unknown field":  `{"colour":1,` + state[1:],
			"a missing field":   "{" + rest,
			"a doubled field":   "{" + field + "," + state[1:],
			"something after":   state + "{}",
			"another case":      strings.Replace(state, field, strings.ToUpper(field), 1),
			"not the same type": strings.Replace(state, field, strings.Split(field, ":")[0]+`:"x"`, 1),
		} {
			if err := part.LoadState([]byte(bad)); err == nil {
				t.Errorf("%s: %s is accepted", part.Name, what)
			}
		}
		if err := part.LoadState([]byte(" " + strings.ReplaceAll(state, ",", ",\n ") + "\n")); err != nil {
			t.Errorf("%s: white space is refused: %v", part.Name, err)
		}
		after, err := part.SaveState()
		if err != nil || !bytes.Equal(after, states[i]) {
			t.Errorf("%s: changed by states that were refused", part.Name)
		}
	}
}

// TestStateIsValidated sets fields to what no part can have.
func TestStateIsValidated(t *testing.T) {
	for _, c := range []struct{ part, old, new, err string }{
		{"pic", `"top":0`, `"top":8`, "no such input"},
		{"pic", `"step":0`, `"step":1`, "no such step"},
		{"pic", `"base":8`, `"base":9`, "multiple of 8"},
		{"pic", `"elcr":0`, `"elcr":1`, "edge triggered"},
		{"pic", `"irr":0`, `"irr":16`, "line that is low"},
		{"pic", `"irr":0,"isr":0,"imr":255,"levels":0`, `"irr":4,"isr":0,"imr":255,"levels":4`, "cascade"},
		{"pit", `"pulse":0`, `"pulse":-1`, "pulse"},
		{"pit", `"pending":0`, `"pending":16385`, "pending"},
		{"pit", `"dropped":0`, `"dropped":-1`, "dropped"},
		{"pit", `"control":0`, `"control":1`, "gate"},
		{"pit", `"control":0`, `"control":16`, "can't be written"},
		{"pit", `"mode":3`, `"mode":6`, "no such mode"},
		{"pit", `"access":3`, `"access":0`, "no such access"},
		{"pit", `"period":65536`, `"period":65537`, "period"},
		{"pit", `"period":65536`, `"period":0`, "period"},
		{"pit", `"next":0`, `"next":1`, "count"},
		{"pit", `"start":0`, `"start":2`, "in the future"},
		{"pit", `"elapsed":0`, `"elapsed":1`, "elapsed"},
		{"pit", `"paused":false`, `"paused":true`, "paused"},
		{"pit", `"latched":0`, `"latched":3`, "latched"},
		{"pit", `"gate":true`, `"gate":false`, "wired high"},
		{"uart", `"ier":0`, `"ier":16`, "IER"},
		{"uart", `"fcr":0`, `"fcr":2`, "FCR"},
		{"uart", `"mcr":0`, `"mcr":32`, "MCR"},
		{"uart", `"polled":0`, `"polled":33`, "polled"},
		{"uart", `"first":0`, `"first":16`, "FIFO"},
		{"uart", `"count":0`, `"count":2`, "FIFO"},
		{"rtc", `"index":0`, `"index":128`, "index"},
		{"rtc", `"phase_ns":250000000`, `"phase_ns":1000000000`, "phase"},
		{"rtc", `"checked_ns":0`, `"checked_ns":-1`, "checked"},
		{"rtc", `"offset_s":1709251198`, `"offset_s":1709251198000000`, "offset"},
		{"i8042", `"flags":0`, `"flags":32`, "flags"},
		{"i8042", `"status":20`, `"status":21`, "status"},
		{"i8042", `"set":2`, `"set":0`, "no such set"},
		{"i8042", `"count":0`, `"count":18`, "queued"},
		{"i8042", `"output_port":207`, `"output_port":206`, "reset"},
		{"system", `"port92":2`, `"port92":4`, "port 0x92"},
		{"system", `"reset_control":0`, `"reset_control":1`, "reset control"},
	} {
		pc := newTestPC(t)
		for i, part := range pc.Parts() {
			if part.Name != c.part {
				continue
			}
			state := string(pc.states()[i])
			bad := strings.Replace(state, c.old, c.new, 1)
			if bad == state {
				t.Errorf("%s has no %s: %s", c.part, c.old, state)
				continue
			}
			if err := part.LoadState([]byte(bad)); err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s with %s: error %v, want one about %q", c.part, c.new, err, c.err)
			}
		}
	}
}

// TestStateRoundTrip saves a PC in the midst of everything and goes on with its copy.
func TestStateRoundTrip(t *testing.T) {
	pc := newTestPC(t)
	pc.startTicks()
	pc.out(0x21, 0xe8)
	pc.out(mcr, mcrOut2)
	pc.out(iir, 0x41)
	pc.out(ier, ierReceive|ierTransmit)
	pc.UART.Receive([]byte("input"))
	pc.setCMOS(rtcB, rtc24Hours|rtcUpdated)
	pc.PowerButton()
	pc.out(0x43, 0xb6) // half a count of counter 2
	pc.out(0x42, 0x55)
	pc.out(0xcf9, 0x02)
	pc.advanceTo(400 * 1_000_000)

	other := pc.copyOf()
	for step := range 2000 {
		op := []byte{byte(step * 31), byte(step * 17), byte(step * 7)}
		if a, b := pc.fuzzStep(op), other.fuzzStep(op); a != b {
			t.Fatalf("step %d: %+v, the copy %+v", step, a, b)
		}
	}
	if a, b := bytes.Join(pc.states(), nil), bytes.Join(other.states(), nil); !bytes.Equal(a, b) {
		t.Errorf("the states differ:\n%s\n%s", a, b)
	}
}
