package lab

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestConfig(t *testing.T) {
	hosts := func(names ...string) Config {
		var c Config
		for _, n := range names {
			c.Hosts = append(c.Hosts, HostConfig{Name: n})
		}
		return c
	}
	tests := []struct {
		name  string
		cfg   Config
		hosts string
		err   string
	}{
		{name: "zero value", hosts: "h1"},
		{name: "names by place", cfg: hosts("", "backup", ""), hosts: "h1 backup h3"},
		{name: "one name twice", cfg: hosts("a", "a"), err: `two hosts are named "a"`},
		{name: "given name is another's default", cfg: hosts("h2", ""), err: `two hosts are named "h2"`},
		{name: "space in a name", cfg: hosts("a b"), err: "can't be a host's name"},
		{name: "slash in a name", cfg: hosts("../x"), err: "can't be a host's name"},
		{name: "dash first", cfg: hosts("-x"), err: "can't be a host's name"},
		{name: "long name", cfg: hosts(strings.Repeat("x", maxNameBytes+1)), err: "can't be a host's name"},
		{name: "too many hosts", cfg: Config{Hosts: make([]HostConfig, MaxHosts+1)}, err: "200 hosts at most"},
		{name: "too many networks", cfg: Config{Networks: MaxNetworks + 1}, err: "1 to 4 networks"},
		{name: "negative networks", cfg: Config{Networks: -1}, err: "1 to 4 networks"},
		{name: "little memory", cfg: Config{MemoryMB: 64}, err: "256 MB"},
		{name: "negative CPUs", cfg: Config{CPUs: -1}, err: "at least one CPU"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.cfg.complete()
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, h := range tt.cfg.Hosts {
				names = append(names, h.Name)
			}
			if got := strings.Join(names, " "); got != tt.hosts {
				t.Errorf("hosts are %q, want %q", got, tt.hosts)
			}
			if tt.cfg.CPUs != defaultCPUs || tt.cfg.MemoryMB != defaultMemoryMB || tt.cfg.Networks != 1 {
				t.Errorf("defaults are %+v", tt.cfg)
			}
		})
	}
}

func TestMachineArgs(t *testing.T) {
	spec := machineSpec{
		qemu:   QEMU{Path: "/loader", Args: []string{"--library-path", "x", "/qemu"}},
		kernel: "/k", initrd: "/i", console: "/c,d", name: "h1", cpus: 2, memoryMB: 512,
		nics:  []nicSpec{{mac: mac(0, 1)}, {mac: mac(1, 1)}},
		disks: []Disk{{Path: "/a,b"}, {Path: "/ro", ReadOnly: true}},
	}
	args := spec.args()
	if !slices.Equal(args[:3], spec.qemu.Args) {
		t.Errorf("starts with %q", args[:3])
	}
	text := strings.Join(args, " ")
	for _, want := range []string{
		"-cpu max,+svm,+npt", "-smp 2 -m 512", "path=/c,,d",
		"socket,id=agent,fd=3", "addr.str=4", "mac=52:54:00:4d:00:01", "addr.str=5", "mac=52:54:00:4d:01:01",
		"id=disk0,file=/a,,b -device", "id=disk1,file=/ro,readonly=on", "lab.host=h1",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %s", want, text)
		}
	}
}

func TestWorkDirsOfTheDeadAreSwept(t *testing.T) {
	run := t.TempDir()
	held, release, err := newWorkDir(run)
	if err != nil {
		t.Fatal(err)
	}
	dead, releaseDead, err := newWorkDir(run)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dead, "h1.console"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	releaseDead() // as the kernel does when a process dies
	if _, releaseThird, err := newWorkDir(run); err != nil {
		t.Fatal(err)
	} else {
		defer releaseThird()
	}
	if _, err := os.Stat(held); err != nil {
		t.Errorf("a folder in use is gone: %v", err)
	}
	if _, err := os.Stat(dead); !os.IsNotExist(err) {
		t.Errorf("a dead process's folder is still there: %v", err)
	}
	release()
}

func TestRunDirIsThisUsersAlone(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	dir, err := RunDir()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := RunDir(); err != nil || again != dir {
		t.Errorf("the second time %q, %v", again, err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := RunDir(); err == nil || !strings.Contains(err.Error(), "0700") {
		t.Errorf("a folder open to others is used: %v", err)
	}
}

func TestIsStatic(t *testing.T) {
	if IsStatic("/bin/sh") {
		t.Error("the system's shell is taken for static")
	}
	if IsStatic("lab_test.go") || IsStatic("/no/such") {
		t.Error("what is no program is taken for a static one")
	}
}
