package failover

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	if got := Quantile(nil, 0.5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
	values := []time.Duration{5, 1, 4, 2, 3}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 3, 0.99: 5, 1: 5} {
		if got := Quantile(values, q); got != want {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if values[0] != 5 {
		t.Error("the caller's values were sorted")
	}
}

// TestTranscript checks that the end of what was said is kept, in bounded memory.
func TestTranscript(t *testing.T) {
	var tr transcript
	line := bytes.Repeat([]byte("x"), 999)
	for range 1000 {
		if n, err := tr.Write(append(line, '\r')); n != 1000 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	_, _ = tr.Write([]byte("the end\n"))
	text := tr.String()
	if !strings.HasSuffix(text, "the end\n") || strings.Contains(text, "\r") || len(text) < transcriptBytes/2 || len(tr.text) > 2*transcriptBytes {
		t.Errorf("%d bytes are kept, ending in %q", len(text), text[len(text)-20:])
	}
}

// TestRemoveImages checks that the latest image stays, and with it all that is none.
func TestRemoveImages(t *testing.T) {
	dir := t.TempDir()
	for name, seconds := range map[string]int64{imagePrefix + "old": 20, imagePrefix + "older": 10, imagePrefix + "latest": 30, "servers-x": 1} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Join(path, "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Unix(seconds, 0), time.Unix(seconds, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeImages(dir); err != nil {
		t.Fatal(err)
	}
	var left []string
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if got := strings.Join(left, " "); err != nil || got != imagePrefix+"latest servers-x" {
		t.Errorf("%q are left, %v", got, err)
	}
}
