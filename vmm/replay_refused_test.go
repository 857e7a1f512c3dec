package vmm

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tandem/kvm"
	"tandem/lockstep"
	"tandem/lockstep/wire"
	"tandem/testdata/guests"
)

// TestOpenRecordingRefuses opens folders that are not what record makes: each must be refused in one line that says why.
func TestOpenRecordingRefuses(t *testing.T) {
	r := recordGuest(t, guests.Image("port-loop"), 3, RecordOptions{})
	r.record(t)
	other := recordGuest(t, guests.Image("halt"), 0, RecordOptions{})
	other.record(t)
	const checkpoint = "checkpoint-000000"
	tests := []struct {
		name       string
		checkpoint uint64
		spoil      func(t *testing.T, dir string)
		want       string
	}{
		{"no log", 0, func(t *testing.T, dir string) { remove(t, dir, wire.LogName) }, "is no recording: there is no machine.log in it"},
		{"no checkpoint", 0, func(t *testing.T, dir string) { remove(t, dir, checkpoint) }, "has no checkpoint-000000"},
		{"a checkpoint that was not made", 7, func(*testing.T, string) {}, "has no checkpoint-000007"},
		{"an empty log", 0, edited(wire.LogName, func([]byte) []byte { return nil }), "machine.log: this is not a Tandem log"},
		{"another file as the log", 0, edited(wire.LogName, func([]byte) []byte { return bytes.Repeat([]byte("text "), 99) }), "machine.log: this is not a Tandem log"},
		{"a log of another version", 0, edited(wire.LogName, func(p []byte) []byte { p[8] = 9; return p }), "version 9"},
		{"a damaged log header", 0, edited(wire.LogName, func(p []byte) []byte { p[70] ^= 1; return p }), "machine.log: its header is damaged"},
		{"a log as the checkpoint", 0, func(t *testing.T, dir string) { copyFile(t, dir, wire.LogName, checkpoint) }, "checkpoint-000000: this is not a Tandem checkpoint"},
		{"a checkpoint that is cut off in its header", 0, edited(checkpoint, func(p []byte) []byte { return p[:40] }), "checkpoint-000000: the file ends inside its header"},
		{"a checkpoint that is cut off", 0, edited(checkpoint, func(p []byte) []byte { return p[:len(p)-20] }), "checkpoint-000000: a saved machine: "},
		{"a damaged checkpoint", 0, edited(checkpoint, func(p []byte) []byte { p[len(p)-30] ^= 1; return p }), "checkpoint-000000: a saved machine: "},
		{"another machine's log", 0, edited(wire.LogName, otherProcessor), "were mixed up"},
		{"another processor", 0, func(t *testing.T, dir string) {
			edited(wire.LogName, otherProcessor)(t, dir)
			edited(checkpoint, otherProcessor)(t, dir)
		}, "this host's processor differs from the one that the machine was made for: CPUID leaf 0x1.0"},
		{"a checkpoint under another number", 1, func(t *testing.T, dir string) { copyFile(t, dir, checkpoint, "checkpoint-000001") }, "were mixed up"},
	}
	system, err := kvm.Open("/dev/kvm")
	if err != nil {
		t.Skip(err)
	}
	defer system.Close()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "copy")
			if err := os.CopyFS(dir, os.DirFS(r.dir)); err != nil {
				t.Fatal(err)
			}
			test.spoil(t, dir)
			p, err := OpenRecording(system, dir, test.checkpoint, func(c *Config) { c.Console, c.Debug = newSink(), newSink() })
			if err == nil {
				t.Fatal(p.Close(), "it was opened")
			}
			if text := err.Error(); !strings.Contains(text, test.want) || strings.Contains(text, "\n") {
				t.Errorf("%q, want one line with %q", text, test.want)
			}
		})
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, dir, from, to string) {
	t.Helper()
	p, err := os.ReadFile(filepath.Join(dir, from))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, to), p, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// edited returns what changes a file of a recording.
func edited(name string, edit func([]byte) []byte) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		path := filepath.Join(dir, name)
		p, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, edit(p), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// otherProcessor makes a log or a checkpoint one of a machine whose processor has another feature.
func otherProcessor(p []byte) []byte {
	checkpoint, err := wire.ReadCheckpoint(bytes.NewReader(p))
	header, isCheckpoint := &checkpoint.Header, err == nil
	rest := len(p)
	if !isCheckpoint {
		h, n, err := wire.ReadHeader(bytes.NewReader(p))
		if err != nil {
			panic(err)
		}
		header, rest = &h, int(n)
	} else if head, err := checkpoint.Append(nil); err == nil {
		rest = len(head)
	}
	var id identity
	if err := json.Unmarshal(header.Configuration, &id); err != nil {
		panic(err)
	}
	for i := range id.CPUID {
		if id.CPUID[i].Function == 1 {
			id.CPUID[i].ECX ^= 1
		}
	}
	header.Configuration = mustJSON(id)
	header.Fingerprint = wire.FingerprintOf(wire.Part{Name: "identity", Bytes: header.Configuration})
	var head []byte
	if isCheckpoint {
		head, err = checkpoint.Append(nil)
	} else {
		head, err = header.Append(nil)
	}
	if err != nil {
		panic(err)
	}
	return append(head, p[rest:]...)
}

// TestTornLog replays logs that were cut off anywhere: each replay ends with the message that tells how far the log is
// good, and never with a divergence or as if all were well.
func TestTornLog(t *testing.T) {
	r := recordGuest(t, guests.Image("pit-tick"), 40, RecordOptions{})
	r.record(t)
	whole, err := os.ReadFile(filepath.Join(r.dir, wire.LogName))
	if err != nil {
		t.Fatal(err)
	}
	_, header, err := wire.ReadHeader(bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	for _, length := range []int{int(header), int(header) + 1, (int(header) + len(whole)) / 2, len(whole) - 1} {
		edited(wire.LogName, func([]byte) []byte { return whole[:length] })(t, r.dir)
		g := openGuest(t, r.dir, 0)
		err := g.runToError(t)
		if err == nil { // the guest has ended by itself
			_, err = g.playback.Compare()
		}
		if !errors.Is(err, lockstep.ErrLogIncomplete) || !strings.Contains(err.Error(), "the log is cut off at byte ") {
			t.Errorf("%d of %d bytes: %v", length, len(whole), err)
		}
	}
}
