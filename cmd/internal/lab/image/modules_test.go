package image

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ulikunitz/xz"
)

// module makes an ELF relocatable file whose only content is .modinfo.
func module(info ...string) []byte {
	modinfo := []byte(strings.Join(info, "\x00") + "\x00")
	names := []byte("\x00.modinfo\x00.shstrtab\x00")
	const header, section = 64, 64
	namesAt := header + len(modinfo)
	sectionsAt := namesAt + len(names)
	le := binary.LittleEndian
	b := make([]byte, sectionsAt+3*section)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 1)  // ET_REL
	le.PutUint16(b[18:], 62) // EM_X86_64
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[40:], uint64(sectionsAt))
	le.PutUint16(b[52:], header)
	le.PutUint16(b[58:], section)
	le.PutUint16(b[60:], 3)
	le.PutUint16(b[62:], 2)
	copy(b[header:], modinfo)
	copy(b[namesAt:], names)
	for i, s := range []struct{ name, kind, at, size int }{{1, 1, header, len(modinfo)}, {10, 3, namesAt, len(names)}} {
		h := b[sectionsAt+(i+1)*section:]
		le.PutUint32(h, uint32(s.name))
		le.PutUint32(h[4:], uint32(s.kind))
		le.PutUint64(h[24:], uint64(s.at))
		le.PutUint64(h[32:], uint64(s.size))
	}
	return b
}

func compressed(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// modulesDir lays out a folder as a kernel package has it.
func modulesDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "6.1.0-test")
	for path, b := range map[string][]byte{
		"kernel/virt/irqbypass.ko":    module("license=GPL", "depends="),
		"kernel/kvm/kvm.ko":           module("depends=irqbypass", "alias=devname:kvm"),
		"kernel/kvm/kvm-amd.ko.xz":    compressed(t, module("depends=kvm,built-in", "alias=cpu:amd*", "alias=x")),
		"kernel/loop/a.ko":            module("depends=b"),
		"kernel/loop/b.ko":            module("depends=a"),
		"kernel/broken/text.ko":       []byte("not a module"),
		"kernel/broken/dangling.ko":   module("depends=gone"),
		"modules.builtin":             []byte("kernel/lib/built-in.ko\n"),
		"kernel/broken/badxz.ko.xz":   []byte("\xfd7zXZ\x00junk"),
		"kernel/broken/something.txt": []byte("x"),
	} {
		p := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestClosure(t *testing.T) {
	m, err := OpenModules(modulesDir(t))
	if err != nil {
		t.Fatal(err)
	}
	if m.Release != "6.1.0-test" || !m.Has("kvm-amd") || !m.Has("built_in") || m.Has("something") {
		t.Errorf("index is wrong: %+v", m)
	}
	tests := []struct {
		names []string
		want  string
		err   string
	}{
		{names: nil, want: ""},
		{names: []string{"kvm-amd"}, want: "irqbypass kvm kvm_amd"},
		{names: []string{"kvm", "kvm_amd", "irqbypass"}, want: "irqbypass kvm kvm_amd"},
		{names: []string{"built-in"}, want: ""},
		{names: []string{"nothing"}, err: "no module nothing"},
		{names: []string{"dangling"}, err: "no module gone"},
		{names: []string{"a"}, err: "depends on itself"},
		{names: []string{"text"}, err: "reading module text"},
		{names: []string{"badxz"}, err: "uncompressing module badxz"},
	}
	for _, tt := range tests {
		got, err := m.Closure(tt.names...)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%v: error %v, want one with %q", tt.names, err, tt.err)
			}
			continue
		}
		var names []string
		for _, mod := range got {
			names = append(names, mod.Name)
		}
		if s := strings.Join(names, " "); err != nil || s != tt.want {
			t.Errorf("%v: got %q, %v; want %q", tt.names, s, err, tt.want)
		}
	}
}

func TestAddModules(t *testing.T) {
	m, err := OpenModules(modulesDir(t))
	if err != nil {
		t.Fatal(err)
	}
	mods, err := m.Closure("kvm_amd")
	if err != nil {
		t.Fatal(err)
	}
	im := &Initramfs{}
	im.AddModules(m.Release, mods)
	var b bytes.Buffer
	if _, err := im.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, line := range readBack(t, b.Bytes()) {
		f := strings.SplitN(line, " ", 3)
		files[strings.TrimPrefix(f[0], "lib/modules/6.1.0-test/")] = f[2]
	}
	wantDep := "kernel/kvm/kvm-amd.ko: kernel/kvm/kvm.ko kernel/virt/irqbypass.ko\n" +
		"kernel/kvm/kvm.ko: kernel/virt/irqbypass.ko\nkernel/virt/irqbypass.ko:\n"
	if files["modules.dep"] != wantDep {
		t.Errorf("modules.dep is\n%swant\n%s", files["modules.dep"], wantDep)
	}
	if want := "alias cpu:amd* kvm_amd\nalias x kvm_amd\nalias devname:kvm kvm\n"; files["modules.alias"] != want {
		t.Errorf("modules.alias is\n%swant\n%s", files["modules.alias"], want)
	}
	if !strings.HasPrefix(files["kernel/kvm/kvm-amd.ko"], "\x7fELF") {
		t.Error("kvm-amd.ko isn't there uncompressed")
	}
}

func TestOpenModulesNeedsModules(t *testing.T) {
	if _, err := OpenModules(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no kernel module") {
		t.Errorf("an empty folder gives %v", err)
	}
}

func FuzzModinfo(f *testing.F) {
	f.Add(module("depends=a,b", "alias=x"))
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := modinfo(b)
		if err == nil && info == nil {
			t.Fatal("neither an answer nor an error")
		}
	})
}
