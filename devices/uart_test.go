package devices

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// The UART's ports.
const (
	thr = serialBase + uartData
	ier = serialBase + uartIER
	iir = serialBase + uartFCR
	lcr = serialBase + uartLCR
	mcr = serialBase + uartMCR
	lsr = serialBase + uartLSR
	msr = serialBase + uartMSR
	scr = serialBase + uartSCR
)

// serialPC returns a PC whose serial interrupt is open.
func serialPC(t *testing.T) *testPC {
	pc := newTestPC(t)
	pc.initialisePICs()
	pc.out(0x21, 0xef)
	pc.out(mcr, mcrOut2|mcrDTR|mcrRTS)
	return pc
}

// TestUARTAutoconfig plays Linux's 8250 driver, drivers/tty/serial/8250/8250_port.c: autoconfig, autoconfig_16550a and
// the tests of the transmitter's interrupt in serial8250_do_startup.
func TestUARTAutoconfig(t *testing.T) {
	pc := newTestPC(t)
	pc.out(ier, 0x00)
	pc.expect(ier, 0x00, "IER cleared")
	pc.out(ier, 0x0f)
	pc.expect(ier, 0x0f, "IER set")
	pc.out(ier, 0x00)

	pc.out(mcr, 0x1a) // loop, OUT2, RTS
	if got := pc.in(msr) & 0xf0; got != 0x90 {
		t.Fatalf("loopback: MSR %#x, want DCD and CTS", got)
	}
	pc.out(mcr, 0x00)

	pc.out(lcr, 0xbf)
	pc.out(iir, 0x00) // EFR on other chips
	pc.out(lcr, 0x00)
	pc.out(iir, 0x01)
	if got := pc.in(iir) >> 6; got != 3 {
		t.Fatalf("IIR %#x after enabling the FIFOs, want those of a 16550A", got)
	}
	pc.out(lcr, 0x80)
	if pc.in(iir) == 0 {
		t.Fatal("taken for a 16650: the EFR reads 0")
	}
	pc.out(lcr, 0xbf)
	if pc.in(iir) == 0 {
		t.Fatal("taken for a 16850: the EFR reads 0")
	}
	pc.out(lcr, 0x00)
	pc.out(iir, 0x01)
	before := pc.in(iir) >> 5
	pc.out(lcr, 0x80)
	pc.out(iir, 0x21)
	if after := pc.in(iir) >> 5; before == 6 && after == 7 {
		t.Fatal("taken for a 16750")
	}
	pc.out(iir, 0x01)
	pc.out(lcr, 0x00)
	pc.out(ier, 0x40)
	if pc.in(ier)&0x40 != 0 {
		t.Fatal("taken for an XScale: IER has UUE")
	}
	pc.out(ier, 0x00)
	pc.out(scr, 0x5a)
	pc.expect(scr, 0x5a, "scratch register")

	pc.out(lcr, 0x80)
	pc.out(thr, 0x34)
	pc.out(ier, 0x12)
	pc.expect(thr, 0x34, "divisor, low")
	pc.expect(ier, 0x12, "divisor, high")
	pc.out(lcr, 0x03)

	pc.out(iir, 0x07) // clear the FIFOs
	pc.in(lsr)
	pc.in(thr)
	pc.in(iir)
	pc.in(msr)
	pc.out(ier, ierTransmit)
	if got := pc.in(iir) & 0x0f; got != iirTransmit {
		t.Fatalf("IIR %#x, want the transmitter's interrupt when it is enabled", got)
	}
	pc.out(ier, 0x00)
	pc.out(ier, ierTransmit)
	if got := pc.in(iir) & 0x0f; got != iirTransmit {
		t.Fatalf("IIR %#x, want the transmitter's interrupt again", got)
	}
	pc.out(ier, 0x00)
	pc.expect(lsr, 0x60, "LSR: transmitter empty")
	if pc.console.Len() != 0 {
		t.Errorf("the probe has printed %q", pc.console)
	}
}

// TestUARTTransmit writes as Linux's interrupt handler does: a FIFO full of bytes at each interrupt.
func TestUARTTransmit(t *testing.T) {
	pc := serialPC(t)
	pc.out(iir, 0x07)
	text := strings.Repeat("The quick brown fox. ", 10)
	rest := []byte(text)
	pc.out(ier, ierTransmit)
	loops := 0
	if !pc.PIC.Pending() || pc.PIC.Acknowledge() != 0x34 {
		t.Fatal("no interrupt")
	}
	for pc.in(iir)&0x0f == iirTransmit {
		loops++
		if pc.in(lsr)&0x20 == 0 {
			t.Fatal("the transmitter is not empty")
		}
		n := min(len(rest), 16)
		pc.out(thr, rest[:n]...)
		rest = rest[n:]
		if len(rest) == 0 {
			pc.out(ier, 0)
		}
	}
	if got := pc.console.String(); got != text {
		t.Errorf("printed %q, want %q", got, text)
	}
	if want := (len(text) + 15) / 16; loops != want {
		t.Errorf("%d loops, want %d", loops, want)
	}
	pc.out(0x20, specificEOI|4)
	if pc.PIC.Pending() {
		t.Error("an interrupt is left")
	}
}

func TestUARTOutputIsKept(t *testing.T) {
	var sink keeper
	pc := newTestPC(t)
	pc.UART.line.sink = &sink
	for i := range 2 * outboxChunkBytes {
		pc.out(thr, byte(i))
	}
	for i, p := range sink.all {
		if len(p) != 1 || p[0] != byte(i) || cap(p) != 1 {
			t.Fatalf("byte %d has become % x", i, p)
		}
	}
}

// keeper is a sink that keeps the slices themselves, as it may.
type keeper struct{ all [][]byte }

func (k *keeper) Output(p []byte) { k.all = append(k.all, p) }

func TestUARTReceive(t *testing.T) {
	pc := serialPC(t)
	if got := pc.UART.Room(); got != 0 {
		t.Errorf("room for %d before the guest listens", got)
	}
	for range pollsOfListener {
		pc.in(lsr)
	}
	if got := pc.UART.Room(); got != 1 {
		t.Errorf("room for %d without a FIFO when the guest polls, want 1", got)
	}
	pc.out(thr, '!')
	if got := pc.UART.Room(); got != 0 {
		t.Errorf("room for %d when the guest has polled for the transmitter", got)
	}
	pc.out(iir, 0x81) // FIFOs, trigger level 8
	pc.out(ier, ierReceive)
	if n := pc.UART.Receive([]byte("abc")); n != 3 {
		t.Fatalf("took %d of 3", n)
	}
	if !pc.PIC.Pending() {
		t.Fatal("no interrupt")
	}
	pc.expect(iir, iirFIFO|iirTimeout, "IIR below the trigger level")
	if n := pc.UART.Receive([]byte("defghijklmnopqrstuvw")); n != 13 || pc.UART.Room() != 0 {
		t.Fatalf("took %d, room for %d more; want 13 and 0", n, pc.UART.Room())
	}
	pc.expect(iir, iirFIFO|iirReceive, "IIR above the trigger level")
	var got []byte
	for pc.in(lsr)&lsrData != 0 {
		got = append(got, pc.in(thr))
	}
	if want := "abcdefghijklmnop"; string(got) != want {
		t.Errorf("read %q, want %q", got, want)
	}
	pc.expect(iir, iirFIFO|iirNone, "IIR of an empty FIFO")
	if pc.PIC.Pending() {
		t.Error("an interrupt is left")
	}
	pc.expect(thr, 0, "an empty receiver")
	pc.UART.Receive([]byte("xyz"))
	pc.out(iir, 0x03)
	if got := pc.UART.Room(); got != 16 {
		t.Errorf("room for %d after the FIFO was cleared", got)
	}
}

// TestUARTKeepsTypeAhead has input come before the guest listens: it must wait outside, where no driver that empties
// the FIFO loses it.
func TestUARTKeepsTypeAhead(t *testing.T) {
	pc := serialPC(t)
	if n := pc.UART.Receive([]byte("a")); n != 0 {
		t.Fatalf("took %d bytes before the guest listens", n)
	}
	for range pollsOfListener - 1 {
		pc.in(lsr)
	}
	pc.out(thr, '>')
	pc.in(lsr)
	if got := pc.UART.Room(); got != 0 {
		t.Errorf("room for %d while the guest only waits to send", got)
	}
	for range pollsOfListener {
		pc.in(lsr)
	}
	if got := pc.UART.Room(); got != 1 {
		t.Errorf("room for %d in a guest that polls for input", got)
	}
	pc.out(thr, '>')
	pc.out(ier, ierReceive)
	if got := pc.UART.Room(); got != 1 {
		t.Errorf("room for %d in a guest that waits for an interrupt", got)
	}
}

// TestUARTKeepsTypeAheadOfLinux offers a byte at every exit while the guest does what Linux's driver does, from looking for
// the UART to its first read: none may be lost.
func TestUARTKeepsTypeAheadOfLinux(t *testing.T) {
	type access struct {
		port  uint64
		value int // to be written, or -1 for a read
	}
	const read = -1
	probe := []access{ // autoconfig
		{ier, 0}, {ier, 0x0f}, {ier, read}, {ier, 0}, {mcr, mcrLoop | 0x0a}, {msr, read}, {mcr, 0},
		{iir, 0x01}, {iir, read}, {iir, 0x01}, {iir, 0x07}, {iir, 0}, {mcr, 0}, {thr, read}, {ier, 0},
	}
	startup := []access{ // serial8250_do_startup
		{iir, 0x01}, {iir, 0x07}, {iir, 0}, {lsr, read}, {thr, read}, {iir, read}, {msr, read}, {lcr, 0x03},
		{mcr, mcrOut2}, {ier, ierTransmit}, {lsr, read}, {iir, read}, {ier, 0}, {lsr, read}, {thr, read}, {iir, read}, {msr, read},
	}
	termios := []access{ // serial8250_do_set_termios
		{ier, ierLine | ierReceive}, {lcr, 0x83}, {thr, 12}, {ier, 0}, {lcr, 0x03}, {iir, 0x01}, {iir, 0x81}, {mcr, mcrOut2 | 0x03},
	}
	pc := newTestPC(t)
	typed := []byte("typed before anybody listens")
	rest := typed
	for _, a := range slices.Concat(probe, startup, termios) {
		if a.value == read {
			pc.in(a.port)
		} else {
			pc.out(a.port, byte(a.value))
		}
		if pc.UART.Room() > 0 {
			rest = rest[pc.UART.Receive(rest[:1]):]
		}
	}
	var got []byte
	for len(got) < len(typed) && pc.in(lsr)&lsrData != 0 {
		got = append(got, pc.in(thr))
		rest = rest[pc.UART.Receive(rest):]
	}
	if string(got) != string(typed) {
		t.Errorf("the guest reads %q, want %q", got, typed)
	}
}

func TestUARTInterruptPriorities(t *testing.T) {
	pc := serialPC(t)
	pc.out(iir, 0x01)
	pc.out(mcr, mcrLoop|mcrOut2)
	for range 17 {
		pc.out(thr, 'x') // the seventeenth overruns
	}
	pc.out(mcr, mcrOut2|mcrRTS) // CTS and DSR and DCD come back: deltas
	pc.out(ier, 0x0f)
	pc.expect(iir, iirFIFO|iirLine, "line status first")
	pc.expect(lsr, lsrEmpty|lsrData|lsrOverrun, "LSR")
	pc.expect(lsr, lsrEmpty|lsrData, "LSR: the error is reported once")
	pc.expect(iir, iirFIFO|iirReceive, "then the receiver")
	pc.out(iir, 0x03)
	pc.expect(iir, iirFIFO|iirTransmit, "then the transmitter")
	pc.expect(iir, iirFIFO|iirModem, "then the modem")
	if got := pc.in(msr); got&0xf0 != 0xb0 || got&msrDelta == 0 {
		t.Errorf("MSR %#x, want the terminal's lines and deltas", got)
	}
	pc.expect(iir, iirFIFO|iirNone, "then nothing")
	pc.expect(msr, 0xb0, "MSR without deltas")
}

func TestUARTLoopback(t *testing.T) {
	pc := serialPC(t)
	pc.out(iir, 0x01)
	pc.out(ier, ierReceive)
	pc.out(mcr, mcrLoop|mcrOut1|mcrDTR)
	pc.out(thr, []byte("ab")...)
	if pc.PIC.Pending() {
		t.Error("an interrupt comes out in loopback mode")
	}
	pc.expect(thr, 'a', "looped back")
	pc.expect(thr, 'b', "looped back")
	if got := pc.in(msr) & 0xf0; got != msrRI|msrDSR {
		t.Errorf("MSR %#x, want RI and DSR", got)
	}
	if pc.UART.Room() != 0 || pc.UART.Receive([]byte("c")) != 0 {
		t.Error("takes input from the line in loopback mode")
	}
	if pc.console.Len() != 0 {
		t.Errorf("%q has got out", pc.console)
	}
}

func TestUARTNeedsOut2(t *testing.T) {
	pc := serialPC(t)
	pc.out(mcr, 0)
	pc.out(ier, ierTransmit)
	if pc.PIC.Pending() {
		t.Error("an interrupt with OUT2 off")
	}
	pc.out(mcr, mcrOut2)
	if !pc.PIC.Pending() {
		t.Error("no interrupt with OUT2 on")
	}
}

func TestUARTWideAccess(t *testing.T) {
	pc := newTestPC(t)
	pc.Ports.Write(lcr, []byte{0x83, 0x0b}) // LCR and MCR
	pc.expect(lcr, 0x83, "LCR")
	pc.expect(mcr, 0x0b, "MCR")
	got := make([]byte, 2)
	pc.Ports.Read(lcr, got)
	if !bytes.Equal(got, []byte{0x83, 0x0b}) {
		t.Errorf("read % x", got)
	}
}
