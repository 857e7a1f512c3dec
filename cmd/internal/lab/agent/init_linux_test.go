package agent

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestParseCmdline(t *testing.T) {
	tests := []struct {
		cmdline, host string
		nics          []nic
		err           string
	}{
		{cmdline: "console=ttyS0 quiet\n", host: "lab"},
		{
			cmdline: "lab.host=h1 lab.nic=52:54:00:4d:00:01,10.77.0.1/24 x lab.nic=52:54:00:4d:01:01,10.77.1.1/24", host: "h1",
			nics: []nic{{"52:54:00:4d:00:01", netip.MustParsePrefix("10.77.0.1/24")}, {"52:54:00:4d:01:01", netip.MustParsePrefix("10.77.1.1/24")}},
		},
		{cmdline: "lab.nic=52:54", host: "lab", err: "lab.nic=52:54"},
		{cmdline: "lab.nic=a,10.77.0.1", host: "lab", err: "lab.nic=a,10.77.0.1"},
		{cmdline: "lab.nic=a,fe80::1/64", host: "lab", err: "IPv4"},
	}
	for _, tt := range tests {
		host, nics, err := parseCmdline(tt.cmdline)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q: error %v, want one with %q", tt.cmdline, err, tt.err)
			}
			continue
		}
		if err != nil || host != tt.host || !reflect.DeepEqual(nics, tt.nics) {
			t.Errorf("%q: %q %v %v", tt.cmdline, host, nics, err)
		}
	}
}

func TestFindPort(t *testing.T) {
	dir := t.TempDir()
	for port, name := range map[string]string{"vport0p1": "other\n", "vport0p2": PortName + "\n"} {
		if err := os.MkdirAll(filepath.Join(dir, port), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, port, "name"), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := findPort(dir, PortName); err != nil || got != "/dev/vport0p2" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := findPort(dir, "nobody"); err == nil || !strings.Contains(err.Error(), "no virtio-serial port named nobody") {
		t.Errorf("a missing port gives %v", err)
	}
	if _, err := findPort(filepath.Join(dir, "none"), PortName); err == nil {
		t.Error("a host without ports has one")
	}
}

func TestIsInit(t *testing.T) {
	if IsInit([]string{"/init"}) || IsInit([]string{"lab", "run"}) || IsInit(nil) {
		t.Error("an ordinary process takes itself for a host's first")
	}
	if !IsInit([]string{"/proc/self/exe", agentFlag}) {
		t.Error("the agent isn't known")
	}
}

func FuzzParseCmdline(f *testing.F) {
	f.Add("lab.host=h1 lab.nic=52:54:00:4d:00:01,10.77.0.1/24")
	f.Fuzz(func(t *testing.T, s string) {
		_, nics, err := parseCmdline(s)
		if err != nil {
			return
		}
		for _, n := range nics {
			if !n.prefix.IsValid() || !n.prefix.Addr().Is4() {
				t.Fatalf("%q gives address %v", s, n.prefix)
			}
		}
	})
}
