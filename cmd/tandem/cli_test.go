package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"

	"tandem/kvm"
	"tandem/testdata/guests"
	"tandem/vmm/doctor"
)

// writeFile makes a file for a test and returns its path.
func writeFile(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// bzImageHeader returns the start of a bzImage of one setup sector, protocol 2.15 (boot.rst, "The Real-Mode Kernel
// Header").
func bzImageHeader() []byte {
	image := make([]byte, 4096)
	image[0x1f1] = 1
	binary.LittleEndian.PutUint16(image[0x1fe:], 0xaa55)
	image[0x200], image[0x201] = 0xeb, 0x6a
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(image[0x206:], 0x020f)
	image[0x211] = 1
	image[0x236] = 1
	return image
}

// hostileImage claims a payload of 4 GiB.
func hostileImage() []byte {
	image := bzImageHeader()
	binary.LittleEndian.PutUint32(image[0x24c:], 0xffffffff)
	return image
}

// TestKernelImages gives the program files that are no kernel.
func TestKernelImages(t *testing.T) {
	halt := guests.Image("halt")
	hugeSegment := bytes.Clone(halt)
	binary.LittleEndian.PutUint64(hugeSegment[64+32:], 1<<60) // p_filesz of the first program header (ELF-64 §5)
	tests := []struct {
		name  string
		image []byte
		says  []string
	}{
		{"empty", nil, []string{"empty", "give a bzImage or an ELF vmlinux"}},
		{"short", []byte("MZ"), []string{"truncated", "fetch or build"}},
		{"too short for a header", make([]byte, 100), []string{"not a Linux kernel image", "give a bzImage"}},
		{"text", bytes.Repeat([]byte("no kernel\n"), 1000), []string{"not a Linux kernel image", "give a bzImage"}},
		{"truncated ELF", halt[:40], []string{"truncated"}},
		{"truncated segment", halt[:len(halt)/2], []string{"truncated", "again"}},
		{"hostile ELF", hugeSegment, []string{"kernel image"}},
		{"truncated bzImage", bzImageHeader()[:0x230], []string{"kernel"}},
		{"bzImage without a payload", bzImageHeader(), []string{"kernel"}},
		{"hostile bzImage", hostileImage(), []string{"truncated", "again"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := writeFile(t, "kernel", tt.image)
			finish(t, program(t, "run", "--kernel", path)).wantOneLine(t, statusUsage, append(tt.says, "--kernel "+path)...)
		})
	}
}

// TestBadFlags gives the program flags that it must refuse before it starts anything.
func TestBadFlags(t *testing.T) {
	halt := writeFile(t, "halt.elf", guests.Image("halt"))
	blob := writeFile(t, "blob", make([]byte, 3<<20))
	dir := t.TempDir()
	tests := []struct {
		args string // split at spaces
		says []string
	}{
		{"run", []string{`"kernel"`, "tandem run --help"}},
		{"run -k /no/such", []string{"--kernel /no/such does not exist", "check the path"}},
		{"run -k /dev/null", []string{"--kernel /dev/null is not a regular file", "name a file"}},
		{"run -k " + dir, []string{"is not a regular file", "name a file"}},
		{"run -k HALT -i /no/such", []string{"--initrd /no/such does not exist"}},
		{"run -k HALT -i " + dir, []string{"is not a regular file"}},
		{"run -k HALT -m 2M -i " + blob, []string{"--initrd", "more than the guest's memory", "--memory"}},
		{"run -k HALT -m 4M -i " + blob, []string{"initrd is too large", "give the guest at least 5 MiB"}},
		{"run -k HALT -c " + strings.Repeat("x", 100_000), []string{"command line is too long", "shorten it"}},
		{"run -k HALT -m 1M", []string{"memory is too small", "give the guest more"}},
		{"run -k HALT -m 1K", []string{"memory is too small", "give the guest more"}},
		{"run -k HALT -m 0", []string{"--memory", "not a size", "256M"}},
		{"run -k HALT -m -1M", []string{"--memory", "not a size", "256M"}},
		{"run -k HALT -m much", []string{"--memory", "not a size", "256M"}},
		{"run -k HALT -m 99999999999999999999T", []string{"--memory", "not a size"}},
		{"run -k HALT -m 100T", []string{"--memory 100T is more than", "this host has", "give less"}},
		{"run -k HALT --console tv", []string{`--console "tv" is unknown`, "stdio, none or file:PATH"}},
		{"run -k HALT --console file:/no/such/file", []string{"--console /no/such/file does not exist", "check the path"}},
		{"run -k HALT --escape x", []string{`--escape "x"`, "give ^A to ^_"}},
		{"run -k HALT --frobnicate", []string{"unknown flag", "tandem run --help"}},
		{"run -k HALT extra", []string{"unknown command", "tandem run --help"}},
		{"run -k", []string{"needs an argument", "tandem run --help"}},
		{"frobnicate", []string{`unknown command "frobnicate"`, "tandem --help"}},
		{"log frobnicate", []string{`unknown command "frobnicate"`, "tandem log --help"}},
		{"image frobnicate", []string{`unknown command "frobnicate"`, "tandem image --help"}},
		{"version --frobnicate", []string{"unknown flag", "tandem version --help"}},
		{"doctor extra", []string{"unknown command", "tandem doctor --help"}},
		{"record -k HALT", []string{"--output is missing", "name a new folder"}},
		{"record -k HALT -o " + dir, []string{"--output", "exists", "name another"}},
		{"replay", []string{"accepts 1 arg", "tandem replay --help"}},
		{"replay /no/such", []string{"/no/such is no recording"}},
		{"replay " + dir, []string{"is no recording"}},
	}
	for _, tt := range tests {
		t.Run(shorten(tt.args), func(t *testing.T) {
			args := strings.Fields(strings.ReplaceAll(tt.args, "HALT", halt))
			finish(t, program(t, args...)).wantOneLine(t, statusUsage, tt.says...)
		})
	}
}

// shorten makes a subtest's name of a command line.
func shorten(args string) string { return args[:min(len(args), 60)] }

// TestMissingKVM runs the program on hosts, as it seems to it, without a KVM to use.
func TestMissingKVM(t *testing.T) {
	halt := writeFile(t, "halt.elf", guests.Image("halt"))
	tests := []struct {
		device string
		says   []string
	}{
		{"/no/such", []string{"/no/such does not exist", "load the kvm_intel or kvm_amd module"}},
		{"/dev/null", []string{"/dev/null is not a KVM device", "name the real one"}},
	}
	for _, tt := range tests {
		for _, args := range [][]string{{"run", "-k", halt}, {"doctor"}} {
			t.Run(args[0]+tt.device, func(t *testing.T) {
				finish(t, program(t, append(args, "--kvm", tt.device)...)).wantOneLine(t, statusIncapable, tt.says...)
			})
		}
	}
}

// TestForbiddenKVM runs the program as a user who may not open the device.
func TestForbiddenKVM(t *testing.T) {
	device := filepath.Join(t.TempDir(), "kvm")
	if err := os.WriteFile(device, nil, 0); err != nil {
		t.Fatal(err)
	}
	cmd := program(t, "doctor", "--kvm", device)
	if os.Getuid() == 0 {
		asNobody(t, cmd, device)
	}
	finish(t, cmd).wantOneLine(t, statusIncapable, device+" may not be opened by this user", "join the group kvm")
}

// asNobody makes a command run as a user without rights, and lets that user reach it and what it is to open.
func asNobody(t *testing.T, cmd *exec.Cmd, path string) {
	t.Helper()
	const nobody = 65534
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody, NoSetGroups: true}}
	for _, p := range []string{path, cmd.Path} {
		for dir := filepath.Dir(p); dir != os.TempDir() && dir != "/" && dir != "."; dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	cmd.Dir = os.TempDir()
}

// nativeKVM returns the machine's KVM, or skips the test.
func nativeKVM(t *testing.T) *kvm.System {
	t.Helper()
	system, err := kvm.Open("/dev/kvm")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = system.Close() })
	return system
}

// linuxBanner is an ELF file that passes for Linux: the guest "halt" with the kernel's banner in place of its last bytes.
func linuxBanner(t *testing.T) string {
	t.Helper()
	image := guests.Image("halt")
	offset, size := binary.LittleEndian.Uint64(image[64+8:]), binary.LittleEndian.Uint64(image[64+32:])
	const banner = "Linux version "
	if size < uint64(len(banner)) {
		grown := append(bytes.Clone(image), make([]byte, len(banner))...)
		copy(grown[offset+size:], banner)
		binary.LittleEndian.PutUint64(grown[64+32:], size+uint64(len(banner)))
		binary.LittleEndian.PutUint64(grown[64+40:], size+uint64(len(banner)))
		return writeFile(t, "linux.elf", grown)
	}
	image = bytes.Clone(image)
	copy(image[offset+size-uint64(len(banner)):], banner)
	return writeFile(t, "linux.elf", image)
}

// TestIncapableKVM gives Linux to a KVM that can't run it. Nothing of a recording may be left.
func TestIncapableKVM(t *testing.T) {
	if _, ok := doctor.CanRunLinux(nativeKVM(t)); ok {
		t.Skip("this machine's KVM can run Linux")
	}
	kernel := linuxBanner(t)
	finish(t, program(t, "run", "-k", kernel)).wantOneLine(t, statusIncapable, "/dev/kvm can't run Linux", "use a host with hardware virtualisation")
	output := filepath.Join(t.TempDir(), "recording")
	r := finish(t, program(t, "record", "--no-rewrite", "-k", kernel, "-o", output))
	r.wantOneLine(t, statusIncapable, "/dev/kvm can't run Linux")
	wantNothing(t, output)
}

func wantNothing(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("%s was left behind (%v)", path, err)
	}
}

// TestFailedRecordLeavesNothing checks that no folder stays of a recording that never began.
func TestFailedRecordLeavesNothing(t *testing.T) {
	halt := writeFile(t, "halt.elf", guests.Image("halt"))
	nativeKVM(t)
	for _, args := range [][]string{
		{"-k", "/no/such"},
		{"-k", writeFile(t, "empty", nil)},
		{"-k", halt, "-m", "1M"},
		{"-k", halt, "-m", "much"},
		{"-k", halt, "--console", "tv"},
		{"-k", halt, "--kvm", "/dev/null"},
	} {
		output := filepath.Join(t.TempDir(), "recording")
		r := finish(t, program(t, append([]string{"record", "-o", output}, args...)...))
		if r.status != statusUsage && r.status != statusIncapable {
			t.Errorf("record %q: status %d", args, r.status)
		}
		wantNothing(t, output)
	}
}

// TestGuestEnds runs small guests as a user does and checks what the user is told.
func TestGuestEnds(t *testing.T) {
	nativeKVM(t)
	tests := []struct {
		guest  string
		status int
		says   string
	}{
		{"halt", statusOK, "the guest powered off"},
		{"reset-i8042", statusReset, "the guest reset the machine"},
		{"triple-fault", statusTripleFault, "the guest crashed (triple fault)"},
	}
	for _, tt := range tests {
		t.Run(tt.guest, func(t *testing.T) {
			kernel := writeFile(t, tt.guest, guests.Image(tt.guest))
			finish(t, program(t, "run", "-m", "16M", "-k", kernel)).wantOneLine(t, tt.status, tt.says)
		})
	}
}

// TestRecordAndReplay records a small guest and replays it, by the commands alone.
func TestRecordAndReplay(t *testing.T) {
	nativeKVM(t)
	kernel := writeFile(t, "uart", guests.Image("uart"))
	output := filepath.Join(t.TempDir(), "recording")
	recorded := finish(t, program(t, "record", "-m", "16M", "-k", kernel, "-o", output))
	recorded.wantOneLine(t, statusOK, "the guest powered off")
	replayed := finish(t, program(t, "replay", output))
	replayed.wantOneLine(t, statusOK, "are equal to the recording's")
	if recorded.stdout == "" || replayed.stdout != recorded.stdout {
		t.Errorf("the guest wrote %q, its replay %q", recorded.stdout, replayed.stdout)
	}
}

// TestVersion checks the one line that names the program.
func TestVersion(t *testing.T) {
	r := finish(t, program(t, "version"))
	if r.status != statusOK || !strings.HasPrefix(r.stdout, "tandem "+version) || strings.Count(r.stdout, "\n") != 1 || r.stderr != "" {
		t.Errorf("%+v", r)
	}
}

// TestHelp asks every command for its help, which names all its flags.
func TestHelp(t *testing.T) {
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		t.Run(c.CommandPath(), func(t *testing.T) {
			args := append(strings.Fields(c.CommandPath())[1:], "--help")
			r := finish(t, program(t, args...))
			if r.status != statusOK || r.stderr != "" || !strings.Contains(r.stdout, "Usage:\n  "+c.CommandPath()) {
				t.Errorf("%+v", r)
			}
			if c.Short == "" {
				t.Error("the command is not described in its parent's help")
			}
		})
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(newRootCommand())
}

// TestStatsJSON checks the file that scripts read.
func TestStatsJSON(t *testing.T) {
	nativeKVM(t)
	kernel := writeFile(t, "halt", guests.Image("halt"))
	file := filepath.Join(t.TempDir(), "stats")
	finish(t, program(t, "run", "-m", "16M", "-k", kernel, "--stats-json", file)).wantOneLine(t, statusOK, "the guest powered off")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"handled_exits": 1`, `"kind": "hlt"`, fmt.Sprintf(`"end": %q`, "the guest powered off (halted with interrupts off)")} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("no %s in %s", want, text)
		}
	}
}
