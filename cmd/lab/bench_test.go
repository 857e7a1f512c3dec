package main

import (
	"slices"
	"strings"
	"testing"
)

func TestParseTicks(t *testing.T) {
	tests := []struct {
		stat string
		want uint64
		ok   bool
	}{
		{"12 (tandem) S 1 12 12 0 -1 4194560 500 0 0 0 730 41 0 0 20 0 7 0 100 1 1", 771, true},
		{"12 (a) b (c) S 1 12 12 0 -1 4194560 500 0 0 0 1 2 0 0 20", 3, true},
		{"12 (tandem) S 1", 0, false},
		{"12 (tandem) S 1 12 12 0 -1 4194560 500 0 0 0 x 41 0", 0, false},
		{"", 0, false},
	}
	for _, tt := range tests {
		if got, err := parseTicks(tt.stat); (err == nil) != tt.ok || tt.ok && got != tt.want {
			t.Errorf("%q: %d, %v; want %d", tt.stat, got, err, tt.want)
		}
	}
}

func TestParseSmaps(t *testing.T) {
	const text = `00400000-00800000 r-xp 00000000 00:01 7 /tandem
Size:               4096 kB
KernelPageSize:        4 kB
Rss:                2048 kB
Pss:                2048 kB
7f0000000000-7f0008000000 rw-p 00000000 00:00 0
Size:             131072 kB
Rss:               65536 kB
7f0010000000-7f0010100000 rw-p 00000000 00:00 0
Size:               1024 kB
Rss:                 512 kB
`
	own, guest, err := parseSmaps(text, 131072)
	if err != nil || own != 2.5 || guest != 64 {
		t.Errorf("own %v MiB, guest %v MiB, %v; want 2.5 and 64", own, guest, err)
	}
	if _, _, err := parseSmaps(text, 1); err == nil {
		t.Error("a guest without RAM is no error")
	}
	if _, _, err := parseSmaps("Size: many kB\n", 1); err == nil {
		t.Error("a size that is no number is no error")
	}
}

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   float64
	}{{[]float64{3}, 3}, {[]float64{5, 1, 3}, 3}, {[]float64{4, 1, 3, 2}, 2}} {
		given := slices.Clone(tt.values)
		if got := median(given); got != tt.want || !slices.Equal(given, tt.values) {
			t.Errorf("median of %v is %v, want %v", tt.values, got, tt.want)
		}
	}
}

func TestParseOther(t *testing.T) {
	if v, err := parseOther(""); err != nil || v.files() != nil {
		t.Errorf("none: %+v, %v", v, err)
	}
	if _, err := parseOther("/no/such run -k {kernel}"); err == nil {
		t.Error("a missing program is no error")
	}
	v, err := parseOther("/bin/sh run -k {kernel}")
	if err != nil || v.files()[otherName] != "/bin/sh" || v.rest != "run -k {kernel}" {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestExpectedEnd(t *testing.T) {
	for status, ok := range map[int]bool{0: true, 10: true, 12: true, 1: false, 2: false, 3: false, 11: false, 137: false} {
		if err := expectedEnd(status); (err == nil) != ok {
			t.Errorf("status %d: %v", status, err)
		}
	}
}

func TestIORow(t *testing.T) {
	said := ioLine.FindStringSubmatch("# measured: took 0.500000 s, 10 to 2058, 3 to 1027 end\r\n")
	if want := []string{"0.500000", "10", "2058", "3", "1027"}; len(said) != 6 || !slices.Equal(said[1:], want) {
		t.Fatalf("%q", said)
	}
	r := ioResult{seconds: 0.5, requests: 2048, exits: 8192, interrupts: 1024}
	for _, c := range []struct {
		load  ioLoad
		exits bool
		want  string
	}{
		{ioLoad{name: "disk", bytes: 8 << 20}, true, "disk 0.50 16.8 2048 244 4.00 0.50"},
		{ioLoad{name: "disk", bytes: 8 << 20}, false, "disk 0.50 16.8 2048 244 - 0.50"},
		{ioLoad{name: "trips", trips: 1024}, true, "trips 0.50 1024 488 8.00 1.00"},
	} {
		if got := strings.Join(strings.Fields(c.load.row(r, c.exits)), " "); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
