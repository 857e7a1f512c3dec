package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tandem/cmd/internal/lab/image"
)

func testTree(t *testing.T) *tree {
	t.Helper()
	stage, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stage.Close() })
	tr, err := newTree(stage)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

type tarEntry struct {
	kind       byte
	name, link string
	mode       int64
	uid, gid   int
	data       string
}

func archive(t *testing.T, entries ...tarEntry) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Typeflag: e.kind, Name: e.name, Linkname: e.link, Mode: e.mode, Uid: e.uid, Gid: e.gid, Size: int64(len(e.data)), Format: tar.FormatGNU}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestUntarMergesUsrAndKeepsOwners(t *testing.T) {
	tr := testTree(t)
	err := tr.untar(archive(t,
		tarEntry{kind: tar.TypeDir, name: "./", mode: 0o755},
		tarEntry{kind: tar.TypeDir, name: "./bin/", mode: 0o755},
		tarEntry{kind: tar.TypeReg, name: "./bin/su", mode: 0o4755, data: "su"},
		tarEntry{kind: tar.TypeReg, name: "./usr/bin/mail", mode: 0o2755, gid: 8, data: "mail"},
		tarEntry{kind: tar.TypeLink, name: "./usr/bin/mail2", link: "./usr/bin/mail"},
		tarEntry{kind: tar.TypeSymlink, name: "./var/run", link: "/run", mode: 0o777},
		tarEntry{kind: tar.TypeReg, name: "./var/run/x/y", mode: 0o600, uid: 5, data: "y"},
		tarEntry{kind: tar.TypeReg, name: "./../../escape", mode: 0o644, data: "in"},
		tarEntry{kind: tar.TypeSymlink, name: "./usr/bin", link: "/elsewhere"},
	))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]struct {
		mode     uint32
		uid, gid int
	}{
		"usr/bin/su":    {0o104755, 0, 0},
		"usr/bin/mail2": {0o102755, 0, 8},
		"run/x/y":       {0o100600, 5, 0},
		"run/x":         {0o040755, 0, 0},
		"escape":        {0o100644, 0, 0},
		"bin":           {0o120777, 0, 0},
		"usr/bin":       {0o040755, 0, 0},
	} {
		n, ok := tr.nodes[path]
		if !ok {
			t.Errorf("%s is not in the tree", path)
			continue
		}
		if inodeMode(n.mode) != want.mode || n.uid != want.uid || n.gid != want.gid {
			t.Errorf("%s: mode %o, owner %d:%d; want %o, %d:%d", path, inodeMode(n.mode), n.uid, n.gid, want.mode, want.uid, want.gid)
		}
	}
	if got, err := tr.read("/bin/su"); err != nil || got != "su" {
		t.Errorf("/bin/su holds %q, %v", got, err)
	}
}

func TestUntarRefuses(t *testing.T) {
	for name, entries := range map[string][]tarEntry{
		"device":        {{kind: tar.TypeChar, name: "dev/mem"}},
		"line break":    {{kind: tar.TypeReg, name: "a\nb"}},
		"quote":         {{kind: tar.TypeReg, name: "a\"b"}},
		"dangling link": {{kind: tar.TypeLink, name: "a", link: "nothing"}},
		"file over dir": {{kind: tar.TypeReg, name: "usr/bin"}},
		"dir over file": {{kind: tar.TypeReg, name: "a"}, {kind: tar.TypeDir, name: "a"}},
		"link circle": {
			{kind: tar.TypeSymlink, name: "a", link: "b"}, {kind: tar.TypeSymlink, name: "b", link: "a"}, {kind: tar.TypeReg, name: "a/x"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := testTree(t).untar(archive(t, entries...)); err == nil {
				t.Error("no error")
			}
		})
	}
}

func FuzzUntar(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./bin/x", Size: 1, Mode: 0o755})
	_, _ = w.Write([]byte("x"))
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "./a", Linkname: "../../b"})
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeLink, Name: "./c", Linkname: "a"})
	_ = w.Close()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, p []byte) {
		tr := testTree(t)
		tr.limit = 1 << 20
		_ = tr.untar(bytes.NewReader(p))
		for path, n := range tr.nodes {
			st, err := tr.stage.Lstat(path)
			if err != nil {
				t.Fatalf("%s is in the tree but not staged: %v", path, err)
			}
			if st.IsDir() != n.mode.IsDir() || (st.Mode()&fs.ModeSymlink != 0) != (n.mode&fs.ModeSymlink != 0) {
				t.Fatalf("%s is staged as %v and in the tree as %v", path, st.Mode(), n.mode)
			}
		}
	})
}

// baseTree has what configureBase needs of Debian.
func baseTree(t *testing.T) *tree {
	tr := testTree(t)
	for name, text := range map[string]string{
		"usr/share/base-passwd/passwd.master": "root:*:0:0:root:/root:/bin/bash\n",
		"usr/share/base-passwd/group.master":  "root:*:0:\n",
		"usr/share/man/man1/x.1":              "x",
		"usr/bin/busybox":                     "b",
		"etc/redis/redis.conf":                "port 6379\n",
	} {
		if err := tr.text(name, 0o644, text); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

func TestRecipes(t *testing.T) {
	tr := baseTree(t)
	tr.versions = map[string]string{"redis-server": "5:7.0", "dovecot-imapd": "1:2.3.19", "dovecot-core": "1:2.3.19"}
	chosen := recipesFor(tr)
	if err := tr.configureBase("box", []string{"bin/ls", "usr/bin/busybox"}, chosen); err != nil {
		t.Fatal(err)
	}
	for _, r := range chosen {
		if err := r.apply(tr); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string][]string{
		"etc/passwd":                   {"root:*:0:0:root:/root:/bin/sh\n", "redis:*:900:900:", "vmail:*:903:903:"},
		"etc/group":                    {"redis:*:900:\n", "dovenull:*:902:\n"},
		"etc/inittab":                  {"::respawn:/usr/lib/tandem/service redis-server\n", "service dovecot\n", "::sysinit:/usr/lib/tandem/boot\n"},
		"etc/tandem/ports":             {"redis-server 6379\ndovecot 143\n"},
		"etc/tandem/services/dovecot":  {"#!/bin/sh\n", "dovecot -F"},
		"etc/dovecot/dovecot.conf":     {"disable_plaintext_auth = no"},
		"etc/hostname":                 {"box\n"},
		"usr/lib/tandem/announce":      {"tandem: ready"},
		"usr/bin/busybox":              {"b"},
		"etc/redis/tandem.conf":        {"include /etc/redis/redis.conf"},
		"etc/tandem/services/nosuch/a": nil,
	} {
		got, err := tr.read(path)
		if (err == nil) != (want != nil) {
			t.Errorf("%s: %v", path, err)
		}
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%s has no %q:\n%s", path, w, got)
			}
		}
	}
	if n := tr.nodes["etc/dovecot/users"]; n.mode != 0o640 || n.gid != 901 {
		t.Errorf("passwords are readable: %+v", n)
	}
	if n := tr.nodes["srv/mail/tandem"]; n.uid != 903 {
		t.Errorf("the mail folder is of user %d", n.uid)
	}
	if tr.has("usr/share/man") || tr.nodes["usr/bin/ls"].target != "/usr/bin/busybox" {
		t.Error("manuals were left in or an applet was left out")
	}
}

func TestDovecotConfigurationFollowsVersion(t *testing.T) {
	for version, want := range map[string]string{
		"1:2.3.19.1+dfsg1-2.1": "disable_plaintext_auth", "1:2.4.1+dfsg1-6": "dovecot_config_version", "1:3.0-1": "dovecot_config_version",
	} {
		tr := testTree(t)
		tr.versions["dovecot-core"] = version
		if err := configureDovecot(tr); err != nil {
			t.Fatal(err)
		}
		if got, _ := tr.read("etc/dovecot/dovecot.conf"); !strings.Contains(got, want) {
			t.Errorf("version %s gets\n%s", version, got)
		}
	}
}

func TestInitrdEntries(t *testing.T) {
	mods := []image.Module{{Name: "virtio_ring", Data: []byte("r")}, {Name: "virtio", Data: []byte("v")}}
	entries, err := initrdEntries([]byte("box"), mods)
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]string{}
	for _, e := range entries {
		have[e.Path] = string(e.Data) + e.Target
	}
	if have["modules/order"] != "virtio_ring.ko\nvirtio.ko\n" || have["modules/virtio.ko"] != "v" || have["bin/sh"] != "busybox" {
		t.Errorf("wrong entries: %v", have)
	}
	// Every command of the script must be there: the shell's own, or a link.
	for _, applet := range []string{"mount", "insmod", "findfs", "sleep", "switch_root", "umount", "poweroff"} {
		if !strings.Contains(have["init"], applet) || have["bin/"+applet] != "busybox" {
			t.Errorf("%s is missing from the script or from /bin", applet)
		}
	}
	if _, err := initrdEntries(nil, mods); err == nil {
		t.Error("an empty busybox is accepted")
	}
}

func TestScriptsAreValidShell(t *testing.T) {
	for _, name := range append(slices.Clone(scripts), "init") {
		cmd := exec.Command("sh", "-n")
		cmd.Stdin = strings.NewReader(builtin(name))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

func TestValidate(t *testing.T) {
	good := func() Options {
		return Options{Image: filepath.Join(t.TempDir(), "x"), SizeBytes: 64 << 20, Hostname: "a", Packages: []string{"libstdc++6"}}
	}
	if o := good(); o.Validate() != nil {
		t.Fatal(o.Validate())
	}
	for want, change := range map[string]func(*Options){
		"nothing to build":    func(o *Options) { o.Image = "" },
		"multiple of 4096":    func(o *Options) { o.SizeBytes++ },
		"from 64 MiB on":      func(o *Options) { o.SizeBytes = 4096 },
		"not a host name":     func(o *Options) { o.Hostname = "a b" },
		"name of a Debian":    func(o *Options) { o.Packages = []string{"-t"} },
		"no directory":        func(o *Options) { o.Initrd = "/nonexistent/x" },
		"no such file":        func(o *Options) { o.Add = []Addition{{"/nonexistent", "/x"}} },
		"at an absolute path": func(o *Options) { o.Add = []Addition{{"/etc/passwd", "x"}} },
	} {
		o := good()
		change(&o)
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
}

func needTools(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := e2fsTool(n); err != nil {
			t.Skip(err)
		}
	}
}

// checkImage runs the file system checker, which fails on any finding.
func checkImage(t *testing.T, path string) {
	t.Helper()
	tool, err := e2fsTool("e2fsck")
	if err != nil {
		t.Skip(err)
	}
	if out, err := exec.Command(tool, "-fn", path).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

// inode asks debugfs about a path of an image.
func inode(t *testing.T, image, path string) string {
	t.Helper()
	tool, err := e2fsTool("debugfs")
	if err != nil {
		t.Skip(err)
	}
	out, err := exec.Command(tool, "-R", "stat \""+path+"\"", image).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(out)), " ")
}

func TestWriteExt4(t *testing.T) {
	needTools(t, "mke2fs", "debugfs", "e2fsck")
	var images [2][]byte
	for i := range images {
		tr := testTree(t)
		names := []string{"srv/a b", "srv/z", "srv/c"}
		if i == 1 {
			slices.Reverse(names) // the order of making must not show
		}
		for _, n := range names {
			if err := tr.file(n, 0o4750|fs.ModeSetuid, 1234, 70000, strings.NewReader(n)); err != nil {
				t.Fatal(err)
			}
		}
		if err := tr.link("srv/second", "srv/z"); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "x.ext4")
		if err := tr.writeExt4(context.Background(), path, minImageBytes); err != nil {
			t.Fatal(err)
		}
		checkImage(t, path)
		for _, want := range []string{"Mode: 04750", "User: 1234", "Group: 70000", "Links: 1", "ctime: 0x659200"} {
			if got := inode(t, path, "/srv/a b"); !strings.Contains(got, want) {
				t.Errorf("no %q in: %s", want, got)
			}
		}
		if got := inode(t, path, "/srv/second"); !strings.Contains(got, "Links: 2") {
			t.Errorf("a hard link became a copy: %s", got)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		images[i] = b
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("the same tree made two images")
	}
}

func TestWriteExt4TooSmall(t *testing.T) {
	tr := testTree(t)
	tr.bytes = 1 << 40
	err := tr.writeExt4(context.Background(), filepath.Join(t.TempDir(), "x"), minImageBytes)
	if err == nil || !strings.Contains(err.Error(), "--size") {
		t.Errorf("got %v", err)
	}
}

func TestE2fsErrors(t *testing.T) {
	needTools(t, "debugfs")
	image := filepath.Join(t.TempDir(), "no-image")
	if err := os.WriteFile(image, make([]byte, 8192), 0o644); err != nil {
		t.Fatal(err)
	}
	err := e2fs(context.Background(), []byte("stat /\n"), "debugfs", "-w", "-f", "-", image)
	if err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
	if err := e2fs(context.Background(), nil, "no-such-tool"); err == nil || !strings.Contains(err.Error(), "e2fsprogs") {
		t.Errorf("got %v", err)
	}
}

func TestToolsAreMissing(t *testing.T) {
	t.Setenv("PATH", "/nonexistent")
	_, err := Build(context.Background(), Options{Image: filepath.Join(t.TempDir(), "x"), SizeBytes: minImageBytes, Hostname: "a", Progress: silent{}})
	if err == nil || !strings.Contains(err.Error(), "apt-get is not on this machine") {
		t.Errorf("got %v", err)
	}
}

func TestUnknownPackage(t *testing.T) {
	err := unknownPackage(errors.New("apt-get install: exit status 100: E: Unable to locate package no-such"))
	if !strings.HasPrefix(err.Error(), "package no-such is not in this machine's apt sources") {
		t.Errorf("got %v", err)
	}
	other := errors.New("E: Could not get lock")
	if unknownPackage(other) != other {
		t.Error("another error is changed")
	}
}

func TestAtomically(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	err := atomically(path, func(tmp string) error {
		_ = os.WriteFile(tmp, []byte("half"), 0o644)
		return io.ErrUnexpectedEOF
	})
	if err == nil {
		t.Error("no error")
	}
	if b, _ := os.ReadFile(path); string(b) != "old" {
		t.Errorf("the file was touched: %q", b)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("something was left behind: %v", left)
	}
}

type silent struct{}

func (silent) Phase(string, int) {}
func (silent) Step()             {}

// TestBuildMinimal downloads what it needs into the user's cache, once.
func TestBuildMinimal(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: downloads packages")
	}
	needTools(t, "mke2fs", "debugfs", "e2fsck")
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skip("apt-get is not on this machine")
	}
	cache := os.Getenv("TANDEM_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			t.Skip(err)
		}
		cache = filepath.Join(user, "tandem")
	}
	dir := t.TempDir()
	extra := filepath.Join(dir, "extra")
	if err := os.WriteFile(extra, []byte("extra"), 0o750); err != nil {
		t.Fatal(err)
	}
	o := Options{
		Image: filepath.Join(dir, "root.ext4"), Initrd: filepath.Join(dir, "initrd"), Kernel: filepath.Join(dir, "vmlinuz"),
		SizeBytes: 256 << 20, Hostname: "t", CacheDir: filepath.Join(cache, "image"), Progress: silent{}, Add: []Addition{{extra, "/opt/extra"}},
	}
	r, err := Build(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, o.Image)
	if r.KernelRelease == "" || len(r.Packages) < len(basePackages) {
		t.Errorf("result %+v", r)
	}
	for path, want := range map[string]string{
		"/opt/extra": "Mode: 0750 ", "/sbin/init": "Type: symlink", "/usr/lib/tandem/boot": "Mode: 0755",
		"/tmp": "Mode: 01777", "/etc/passwd": "User: 0 ", "/usr/bin/busybox": "Type: regular",
	} {
		if got := inode(t, o.Image, path); !strings.Contains(got, want) {
			t.Errorf("%s: no %q in: %s", path, want, got)
		}
	}
	initrd, err := os.ReadFile(o.Initrd)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"modules/virtio_pci.ko", "modules/virtio_blk.ko", "modules/virtio_net.ko"} {
		if !bytes.Contains(initrd, []byte(name)) {
			t.Errorf("the initramfs has no %s", name)
		}
	}
}
