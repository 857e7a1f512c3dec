package main

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem/lockstep/arbiter"
	"tandem/lockstep/link"
	"tandem/testdata/guests"
	"tandem/vmm/control"
	"tandem/vmm/protect"
)

// testKeys makes a host's folder of keys.
func testKeys(t *testing.T) string {
	t.Helper()
	return testKeysOf(t, "a", "b")
}

// testKeysOf makes folders of keys and returns the first host's.
func testKeysOf(t *testing.T, hosts ...string) string {
	t.Helper()
	keys, err := link.GenerateKeys(hosts, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "keys")
	if err := writeKeys(out, keys); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(out, hosts[0])
}

func testArbiter(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	if err := arbiter.CreateFile(folder); err != nil {
		t.Fatal(err)
	}
	return folder
}

// TestTakenPort says what to do about a port that another program has.
func TestTakenPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = net.Listen("tcp", l.Addr().String())
	err = pairUsage(err)
	for _, says := range []string{l.Addr().String(), "name another one with --listen"} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("%v: want %q in it", err, says)
		}
	}
}

// TestBadPairFlags gives the program flags of a pair that it must refuse.
func TestBadPairFlags(t *testing.T) {
	keys, folder, plain := testKeys(t), testArbiter(t), t.TempDir()
	replace := strings.NewReplacer("RUN", "run -k "+writeFile(t, "halt.elf", guests.Image("halt"))+" --control "+filepath.Join(plain, "s"),
		"KEYS", "--keys "+keys, "ARBITER", "--arbiter file:"+folder, "PLAIN", plain, "FOLDER", folder)
	tests := []struct {
		args string
		says []string
	}{
		{"RUN", []string{"--arbiter is missing", "file:/FOLDER", "unsafe-none"}},
		{"RUN KEYS --backup b:7400", []string{"--arbiter is missing"}},
		{"RUN ARBITER --backup b:7400", []string{"--keys is missing", "tandem keygen"}},
		{"RUN ARBITER --backup b:7400 --keys /no/such", []string{"--keys", "/no/such"}},
		{"RUN ARBITER --backup b:7400 --keys PLAIN", []string{"--keys", "PLAIN"}},
		{"RUN KEYS --arbiter coin", []string{`--arbiter "coin"`, "unsafe-none"}},
		{"RUN KEYS --arbiter file:relative", []string{"--arbiter", "file:/FOLDER"}},
		{"RUN KEYS --arbiter etcd:host", []string{"--arbiter", "etcd:http://HOST:2379"}},
		{"RUN KEYS ARBITER --backup b", []string{`peer "b"`, "ADDR:PORT"}},
		{"RUN KEYS ARBITER --backup :7400", []string{`peer ":7400"`, "host is missing"}},
		{"RUN KEYS ARBITER --backup b:0", []string{`peer "b:0"`, "1 to 65535"}},
		{"RUN KEYS ARBITER --listen 7400", []string{`--listen "7400"`, "ADDR:PORT"}},
		{"RUN KEYS ARBITER --listen :70000", []string{`--listen ":70000"`, "1 to 65535"}},
		{"RUN KEYS ARBITER --heartbeat-peer :1", []string{`--heartbeat-peer ":1"`, "host is missing"}},
		{"RUN KEYS ARBITER --listen a:7400 --backup a:7400", []string{"a:7400 is where this host listens"}},
		{"RUN KEYS ARBITER --guest a/b", []string{"--guest", "a/b"}},
		{"RUN KEYS ARBITER --release never", []string{`--release "never"`, "received or verified"}},
		{"RUN KEYS ARBITER --detect 1ms", []string{"--detect 1ms", "from 100ms to 1m0s"}},
		{"RUN KEYS ARBITER --detect 1h", []string{"--detect 1h0m0s", "from 100ms"}},
		{"RUN KEYS ARBITER --log-format xml", []string{`--log-format "xml"`, "text or json"}},
		{"RUN KEYS ARBITER --stats", []string{"--stats", "tandem status"}},
		{"RUN KEYS ARBITER --control /" + strings.Repeat("x", 200), []string{"control socket", "from 1 to"}},
		{"run -k HALT KEYS", []string{"--keys is for a guest that can be protected", "--backup"}},
		{"run -k HALT --detect 1s", []string{"--detect is for a guest that can be protected"}},
		{"backup KEYS ARBITER --control PLAIN/s", []string{"--listen is missing", "--peer"}},
		{"backup --listen :7400", []string{"--arbiter is missing"}},
		{"backup KEYS ARBITER --listen :7400 --peer x", []string{`peer "x"`, "ADDR:PORT"}},
		{"backup KEYS ARBITER --listen :7400 --disk ,ro", []string{"--disk ,ro", "name a file first"}},
		{"backup KEYS ARBITER --listen :7400 --kernel x", []string{"unknown flag", "tandem backup --help"}},
		{"protect", []string{"accepts 1 arg", "tandem protect --help"}},
		{"protect b", []string{`"b"`, "ADDR:PORT"}},
		{"status --guest a/b", []string{"--guest", "a/b"}},
		{"arbiter init", []string{"accepts 1 arg", "tandem arbiter init --help"}},
		{"arbiter init PLAIN/none", []string{"does not exist", "make the folder"}},
		{"arbiter init FOLDER", []string{"is an arbiter already", "nothing was changed"}},
		{"arbiter frobnicate", []string{`unknown command "frobnicate"`, "tandem arbiter --help"}},
	}
	for _, tt := range tests {
		t.Run(shorten(tt.args), func(t *testing.T) {
			for i := range tt.says {
				tt.says[i] = strings.ReplaceAll(tt.says[i], "PLAIN", plain)
			}
			finish(t, program(t, strings.Fields(replace.Replace(tt.args))...)).wantOneLine(t, statusUsage, tt.says...)
		})
	}
}

// TestPairThatCannotBegin gives flags that are right, on a host where they can't be had.
func TestPairThatCannotBegin(t *testing.T) {
	nativeKVM(t)
	keys, folder, plain := testKeys(t), testArbiter(t), t.TempDir()
	socket := filepath.Join(t.TempDir(), "s")
	server, err := control.Serve(socket, noHost{}, slog.New(slog.DiscardHandler), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	file := writeFile(t, "file", nil)
	replace := strings.NewReplacer("RUN", "run -m 16M -k "+writeFile(t, "halt.elf", guests.Image("halt"))+" --keys "+keys,
		"ARBITER", "--arbiter file:"+folder, "PLAIN", plain, "SOCKET", socket, "FILE", file)
	tests := []struct {
		args   string
		status int
		says   []string
	}{
		{"RUN --control PLAIN/s --arbiter file:PLAIN", statusUsage, []string{"is no arbiter", "run `tandem arbiter init " + plain + "`"}},
		{"RUN --control PLAIN/s --arbiter file:PLAIN/none", statusUsage, []string{"is no arbiter", "mount the shared storage"}},
		{"RUN --control PLAIN/s --arbiter etcd:http://" + deadPort(t), statusFailure, []string{"--arbiter", "unreachable", "check its address"}},
		{"RUN --control SOCKET ARBITER", statusUsage, []string{"--control", "another tandem has this control socket"}},
		{"RUN --control FILE ARBITER", statusUsage, []string{"--control", "no socket"}},
		{"RUN --control PLAIN/none/s ARBITER", statusUsage, []string{"--control", "folder does not exist"}},
		{"RUN --control PLAIN/s ARBITER --net hub,path=PLAIN/hub", statusUsage, []string{"no hub answers"}},
		{"RUN --control PLAIN/s ARBITER --disk PLAIN/none", statusUsage, []string{"there is no such file"}},
	}
	for _, tt := range tests {
		t.Run(shorten(tt.args), func(t *testing.T) {
			r := finish(t, program(t, strings.Fields(replace.Replace(tt.args))...))
			r.wantOneLine(t, tt.status, tt.says...)
			wantNothing(t, filepath.Join(plain, "s"))
		})
	}
}

// deadPort is an address at which nobody listens.
func deadPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	return address
}

// noHost is a control.Handler with a status alone.
type noHost struct{}

func (noHost) Status() protect.Status {
	return protect.Status{Guest: "mail", Role: "primary", State: "alone", Term: 3}
}
func (noHost) Protect(string) error { return os.ErrPermission }
func (noHost) Stop()                {}

// TestClients asks a running tandem, and one that is not there.
func TestClients(t *testing.T) {
	runtime := t.TempDir()
	ask := func(args ...string) result {
		cmd := program(t, args...)
		cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR="+runtime)
		return finish(t, cmd)
	}
	path := filepath.Join(runtime, "s")
	ask("status", "--control", path).wantOneLine(t, statusFailure, path, "no tandem listens there")
	ask("protect", "b:7400", "--control", path).wantOneLine(t, statusFailure, "no tandem listens there")
	server, err := control.Serve(path, noHost{}, slog.New(slog.DiscardHandler), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if r := ask("status", "--control", path); r.status != statusOK || !strings.Contains(r.stdout, "mail: primary, alone") || r.stderr != "" {
		t.Errorf("status: %+v", r)
	}
	if r := ask("status", "--json", "--control", path); r.status != statusOK || !strings.Contains(r.stdout, `"term": 3`) || r.stderr != "" {
		t.Errorf("status --json: %+v", r)
	}
	ask("protect", "b:7400", "--control", path).wantOneLine(t, statusFailure, "permission denied")
}

// TestFindSocket finds the socket of the only guest, and asks which if there are several.
func TestFindSocket(t *testing.T) {
	folder := t.TempDir()
	for i, tt := range []struct{ made, guest, want, says string }{
		{made: "", want: "", says: "no guest has a control socket"},
		{made: "mail", want: "mail.sock"},
		{made: "web", says: "mail, web"},
		{made: "web", guest: "web", want: "web.sock"},
		{made: "web", guest: "none", want: "none.sock"},
		{made: "web", guest: "../x", says: "--guest"},
	} {
		if tt.made != "" {
			if err := os.WriteFile(filepath.Join(folder, tt.made+socketSuffix), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		path, err := socketIn(folder, tt.guest)
		if tt.says == "" && (err != nil || path != filepath.Join(folder, tt.want)) {
			t.Errorf("%d: %q, %v; want %s", i, path, err, tt.want)
		}
		if tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%d: %q, %v; want %q in the error", i, path, err, tt.says)
		}
	}
}

// TestArbiterInit makes a folder an arbiter's, by which a guest can be run.
func TestArbiterInit(t *testing.T) {
	folder := t.TempDir()
	r := finish(t, program(t, "arbiter", "init", folder))
	if r.status != statusOK || !strings.Contains(r.stdout, folder+" is an arbiter now") || r.stderr != "" {
		t.Errorf("%+v", r)
	}
	if _, err := arbiter.OpenFile(t.Context(), folder, "mail"); err != nil {
		t.Error(err)
	}
}

// TestSecondPathFollowsTheConnection: the peer of a second path is the host that was dialled. A guest that is given another
// backup later would send its heartbeats to the first one else.
func TestSecondPathFollowsTheConnection(t *testing.T) {
	f := pairFlags{
		guest: "mail", keys: testKeys(t), arbiter: "unsafe-none", peers: []string{"b:7400"}, release: releaseReceived,
		detect: minDetect, control: "s", logFormat: logText,
	}
	for _, peer := range []string{"", "b:7500"} {
		f.heartbeatPeer = peer
		spec, err := f.read()
		if err != nil {
			t.Fatal(err)
		}
		if spec.config.HeartbeatPeer != peer {
			t.Errorf("--heartbeat-peer %q: heartbeats go to %q", peer, spec.config.HeartbeatPeer)
		}
	}
}
