package devices

import (
	"bytes"
	"testing"
)

// keyboardDriver accesses the controller as Linux's drivers/input/serio/i8042.c does, and counts how often.
type keyboardDriver struct {
	*testPC
	accesses int
}

func (d *keyboardDriver) status() byte {
	d.accesses++
	return d.in(0x64)
}

func (d *keyboardDriver) data() byte {
	d.accesses++
	return d.in(0x60)
}

// ready fails the test if the controller would make the driver wait to write.
func (d *keyboardDriver) ready() {
	d.t.Helper()
	if d.status()&0x02 != 0 {
		d.t.Fatal("the input buffer is full")
	}
}

// command is i8042_command: it sends parameters and returns answers.
func (d *keyboardDriver) command(command byte, parameters []byte, answers int) []byte {
	d.t.Helper()
	d.ready()
	d.accesses++
	d.out(0x64, command)
	for _, v := range parameters {
		d.ready()
		d.accesses++
		d.out(0x60, v)
	}
	var got []byte
	for range answers {
		if d.status()&kbcOutputFull == 0 {
			d.t.Fatalf("command %#x has no answer", command)
		}
		if command == kbcLoopAux && d.status()&kbcAux == 0 {
			return nil // "auxerr": the byte is left where it is
		}
		got = append(got, d.data())
	}
	return got
}

// flush is i8042_flush.
func (d *keyboardDriver) flush() {
	for n := 0; d.status()&kbcOutputFull != 0; n++ {
		if n > 16 {
			d.t.Fatal("the output buffer is never empty")
		}
		d.data()
	}
}

// TestI8042LinuxProbe plays the probe of Linux's driver up to the registered keyboard port. It must not cost more than
// the 33 accesses after which Linux gives up on a controller that isn't there, by much.
func TestI8042LinuxProbe(t *testing.T) {
	pc := newTestPC(t)
	pc.initialisePICs()
	d := &keyboardDriver{testPC: pc}
	d.flush()
	first, second := d.command(kbcReadMemory, nil, 1), d.command(kbcReadMemory, nil, 1)
	if !bytes.Equal(first, second) {
		t.Fatalf("the command byte reads % x and % x", first, second)
	}
	ctr := first[0]
	if d.status()&kbcUnlocked == 0 || ctr&kbcTranslate == 0 {
		t.Errorf("command byte %#x, keyboard lock %v", ctr, d.status()&kbcUnlocked == 0)
	}
	ctr = ctr&^kbcInterrupt | kbcNoKeyboard
	d.command(kbcWriteMemory, []byte{ctr}, 0)
	d.flush()
	if d.command(kbcLoopAux, []byte{0x5a}, 1) != nil {
		t.Error("there seems to be a mouse's port")
	}
	if got := d.command(kbcTestAux, nil, 1); got[0] == 0x00 || got[0] == 0xfa || got[0] == 0xff {
		t.Errorf("the mouse's port passes its test: %#x", got[0])
	}
	ctr = ctr&^kbcNoKeyboard | kbcInterrupt
	d.command(kbcWriteMemory, []byte{ctr}, 0)
	d.flush()
	if got := d.command(kbcReadMemory, nil, 1); got[0] != ctr {
		t.Errorf("command byte %#x, want %#x", got[0], ctr)
	}
	if d.accesses > 45 {
		t.Errorf("the probe takes %d accesses", d.accesses)
	}
}

func TestI8042Commands(t *testing.T) {
	for _, c := range []struct {
		what       string
		command    byte
		parameters []byte
		want       []byte
	}{
		{"self-test", kbcSelfTest, nil, []byte{0x55}},
		{"keyboard line", kbcTestKeyboard, nil, []byte{0x00}},
		{"input port", kbcReadInput, nil, []byte{0x80}},
		{"output port", kbcReadOutput, nil, []byte{0xcf}},
		{"as if from the keyboard", kbcLoopKeyboard, []byte{0x42}, []byte{0x42}},
		{"to a mouse that isn't there", kbcWriteAux, []byte{0xf2}, []byte{0xfe}},
		{"memory", 0x3f, nil, []byte{0}},
	} {
		t.Run(c.what, func(t *testing.T) {
			d := &keyboardDriver{testPC: newTestPC(t)}
			if got := d.command(c.command, c.parameters, len(c.want)); !bytes.Equal(got, c.want) {
				t.Errorf("answer % x, want % x", got, c.want)
			}
			if d.status()&kbcOutputFull != 0 {
				t.Error("more answers than there should be")
			}
		})
	}
	d := &keyboardDriver{testPC: newTestPC(t)}
	d.command(kbcWriteMemory+5, []byte{0x99}, 0)
	if got := d.command(kbcReadMemory+5, nil, 1); got[0] != 0x99 {
		t.Errorf("memory reads %#x", got[0])
	}
	d.command(kbcWriteOutput, []byte{0xcd}, 0)
	if got := d.command(kbcReadOutput, nil, 1); got[0] != 0xcd {
		t.Errorf("output port reads %#x", got[0])
	}
	d.command(kbcA20On, nil, 0)
	if got := d.command(kbcReadOutput, nil, 1); got[0] != 0xcf {
		t.Errorf("output port reads %#x with A20 on", got[0])
	}
}

// TestI8042RebootByKeyboard plays Linux's reboot=k: wait for the input buffer, then pulse the reset line.
func TestI8042RebootByKeyboard(t *testing.T) {
	pc := newTestPC(t)
	d := &keyboardDriver{testPC: pc}
	d.ready()
	pc.out(0x64, 0xfe)
	if pc.resets != 1 {
		t.Errorf("%d resets", pc.resets)
	}
}

// keys takes the keyboard's interrupts until there are no more, and returns the bytes.
func (d *keyboardDriver) keys() []byte {
	var got []byte
	for d.PIC.Pending() {
		if vector := d.PIC.Acknowledge(); vector != 0x31 {
			d.t.Fatalf("vector %#x", vector)
		}
		if d.status()&(kbcOutputFull|kbcAux) != kbcOutputFull {
			d.t.Fatal("an interrupt without a byte")
		}
		got = append(got, d.data())
		d.out(0x20, specificEOI|1)
	}
	return got
}

// keyboardPC returns a PC whose keyboard Linux's driver has found.
func keyboardPC(t *testing.T) *keyboardDriver {
	d := &keyboardDriver{testPC: newTestPC(t)}
	d.initialisePICs()
	d.command(kbcWriteMemory, []byte{kbcInterrupt | kbcSystem | kbcNoAux | kbcTranslate}, 0)
	d.out(0x21, 0xf9)
	return d
}

// TestKeyboardLinuxProbe plays drivers/input/keyboard/atkbd.c: identify, stop, lights, repeat rate, go.
func TestKeyboardLinuxProbe(t *testing.T) {
	d := keyboardPC(t)
	for _, c := range []struct {
		send byte
		want []byte
	}{
		{keyIdentify, []byte{keyAck, 0xab, 0x41}},
		{keyDisable, []byte{keyAck}},
		{keyLEDs, []byte{keyAck}},
		{0x00, []byte{keyAck}},
		{keyRate, []byte{keyAck}},
		{0x00, []byte{keyAck}},
		{keyEnable, []byte{keyAck}},
	} {
		d.out(0x60, c.send)
		if got := d.keys(); !bytes.Equal(got, c.want) {
			t.Fatalf("answer to %#x: % x, want % x", c.send, got, c.want)
		}
	}
	d.PowerButton()
	if got, want := d.keys(), ctrlAltDel[:]; !bytes.Equal(got, want) {
		t.Errorf("Ctrl-Alt-Del gives % x, want % x", got, want)
	}
}

func TestKeyboardCommands(t *testing.T) {
	for _, c := range []struct {
		what       string
		send, want []byte
	}{
		{"reset", []byte{keyReset}, []byte{keyAck, keyPassed}},
		{"echo", []byte{keyEcho}, []byte{keyEcho}},
		{"unknown", []byte{0x01}, []byte{keyResend}},
		{"defaults", []byte{keyDefaults}, []byte{keyAck}},
		{"scan code set", []byte{keySet, 0}, []byte{keyAck, keyAck, 2}},
		{"another set", []byte{keySet, 1, keySet, 0}, []byte{keyAck, keyAck, keyAck, keyAck, 1}},
		{"resend", []byte{keyEcho, keyResend}, []byte{keyEcho, keyEcho}},
	} {
		t.Run(c.what, func(t *testing.T) {
			d := keyboardPC(t)
			var got []byte
			for _, v := range c.send {
				d.out(0x60, v)
				got = append(got, d.keys()...)
			}
			if !bytes.Equal(got, c.want) {
				t.Errorf("answers % x, want % x", got, c.want)
			}
		})
	}
}

func TestPowerButtonNeedsAListener(t *testing.T) {
	d := keyboardPC(t)
	d.out(0x60, keyDisable)
	d.keys()
	d.PowerButton()
	if got := d.keys(); got != nil {
		t.Errorf("a keyboard that was stopped sends % x", got)
	}
	d.out(0x60, keyEnable)
	d.keys()
	for range 5 {
		d.PowerButton() // nobody reads: chords are kept whole or dropped whole
	}
	if got := d.keys(); len(got)%len(ctrlAltDel) != 0 || len(got) == 0 {
		t.Errorf("% x are not whole chords", got)
	}
}

// TestI8042AnswerBeforeKeys has a byte of the keyboard's in the way of a command's answer.
func TestI8042AnswerBeforeKeys(t *testing.T) {
	d := keyboardPC(t)
	d.out(0x21, 0xff)
	d.PowerButton()
	if got := d.command(kbcReadOutput, nil, 1); got[0] != 0xcf {
		t.Errorf("answer %#x, want the output port", got[0])
	}
	d.out(0x64, kbcDisable)
	d.out(0x21, 0xf9)
	if got := d.keys(); len(got) != 1 || got[0] != ctrlAltDel[0] {
		t.Errorf("% x, want the byte that was in the buffer already", got)
	}
	d.out(0x64, kbcEnable)
	if got, want := d.keys(), ctrlAltDel[1:]; !bytes.Equal(got, want) {
		t.Errorf("% x, want the rest % x", got, want)
	}
}
