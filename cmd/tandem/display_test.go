package main

import (
	"bytes"
	"strings"
	"testing"

	"tandem/vmm/protect"
)

// TestTransferLines tells of a transfer where there is no terminal: a line for each round and now and then, and the end.
func TestTransferLines(t *testing.T) {
	var out bytes.Buffer
	d := newDisplay(&out, false)
	defer d.close()
	for _, tt := range []struct {
		transfer protect.Transfer
		says     string // "": nothing
	}{
		{protect.Transfer{Round: 1, Bytes: 1 << 20, DiskTotal: 400, ElapsedMS: 1}, "round=1 sent=1MiB dirty_pages=0 done=0%"},
		{protect.Transfer{Round: 1, Bytes: 2 << 20, DiskTotal: 400, ElapsedMS: 1000}, ""},
		{protect.Transfer{Round: 1, Bytes: 3 << 20, DiskTotal: 400, DiskBytes: 100, ElapsedMS: 2001}, "sent=3MiB dirty_pages=0 done=25%"},
		{protect.Transfer{Round: 2, Bytes: 4 << 20, Dirty: 7, ElapsedMS: 2100}, "round=2 sent=4MiB dirty_pages=7\n"},
		{protect.Transfer{Round: 3, Bytes: 4 << 20, SamePages: 256, DiskSame: 2 << 20, ElapsedMS: 2200}, "round=3 sent=4MiB dirty_pages=0 same=3MiB\n"},
		{protect.Transfer{Round: 2, Bytes: 4 << 20, ElapsedMS: 2200, StopMS: 12}, "elapsed_ms=2200 stop_ms=12"},
		{protect.Transfer{Round: 2, ElapsedMS: 5}, "round=2"}, // another one
	} {
		out.Reset()
		d.tell(tt.transfer)
		if got := out.String(); tt.says == "" && got != "" || !strings.Contains(got, tt.says) {
			t.Errorf("%+v: %q, want %q in it", tt.transfer, got, tt.says)
		}
	}
}

// TestBar draws a bar on what passes for a terminal, and writes a line over it.
func TestBar(t *testing.T) {
	var out bytes.Buffer
	d := newDisplay(&out, false)
	defer d.close()
	d.terminal = true
	d.tell(protect.Transfer{Round: 1, Pages: 256, PagesTotal: 512, DiskBytes: 1 << 20, DiskTotal: 2 << 20})
	if got := out.String(); !strings.Contains(got, "state transfer, round 1") || !strings.Contains(got, "50%") {
		t.Errorf("the bar is %q", got)
	}
	out.Reset()
	d.log.Info("hello")
	if got := out.String(); !strings.HasSuffix(got, "msg=hello\r\n") || !strings.HasPrefix(got, "\r") {
		t.Errorf("the line is %q", got)
	}
	d.hide(true)
	out.Reset()
	d.tell(protect.Transfer{Round: 2, ElapsedMS: 1})
	if got := out.String(); !strings.Contains(got, "msg=\"state transfer\"") {
		t.Errorf("over the guest's console it is told %q", got)
	}
	d.hide(false)
	d.tell(protect.Transfer{Round: 3, Dirty: 1, PagesTotal: 512, ElapsedMS: 2})
	if d.bar == nil {
		t.Error("no bar on a terminal that the guest does not have")
	}
	d.tell(protect.Transfer{Round: 3, PagesTotal: 512, ElapsedMS: 3, StopMS: 1})
	if d.bar != nil {
		t.Error("the bar stays when the transfer is complete")
	}
}

// TestUpdatesNeverWait tells of more than anybody looks at.
func TestUpdatesNeverWait(t *testing.T) {
	d := &display{updates: make(chan protect.Transfer, 1)} // nobody shows anything
	for i := range 100 {
		d.update(protect.Transfer{Round: uint32(i)})
	}
	if got := (<-d.updates).Round; got != 99 {
		t.Errorf("round %d waits to be shown, want the latest", got)
	}
}
