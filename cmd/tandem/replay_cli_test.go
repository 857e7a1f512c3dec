package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReplayRefuses gives replay folders that are no recordings.
func TestReplayRefuses(t *testing.T) {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		t.Skip(err)
	}
	empty := t.TempDir()
	text := t.TempDir()
	if err := os.WriteFile(filepath.Join(text, "machine.log"), []byte("something else entirely"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(text, "checkpoint-000000"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ args, want string }{
		{"", "accepts 1 arg"},
		{"/nowhere", "is no recording: there is no machine.log in it"},
		{empty, "is no recording: there is no machine.log in it"},
		{text, "this is not a Tandem log"},
	} {
		cmd := program(t, append([]string{"replay"}, strings.Fields(test.args)...)...)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		err := cmd.Run()
		if err == nil || cmd.ProcessState.ExitCode() != statusUsage || !strings.Contains(errs.String(), test.want) || strings.Count(strings.TrimSpace(errs.String()), "\n") > 1 {
			t.Errorf("%q: %v, %q", test.args, err, errs.String())
		}
	}
}
