package rewrite_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"testing"

	"tandem/boot"
	"tandem/boot/internal/bootkvm"
	"tandem/boot/rewrite"
)

// A rewritten kernel must reach the VMM at each site, take its answer, and go on behind the site.
func TestRunRewritten(t *testing.T) {
	image, err := os.ReadFile("testdata/run.elf")
	if err != nil {
		t.Fatal(err)
	}
	k, err := boot.ReadKernel(image)
	if err != nil {
		t.Fatal(err)
	}
	sites, err := rewrite.Find(k)
	if err != nil {
		t.Fatal(err)
	}
	ports := rewrite.Ports{RDTSC: 0xe0, RDTSCP: 0xe1, WriteCR4: 0xb0}
	if err := sites.Apply(ports); err != nil {
		t.Fatal(err)
	}
	accesses := bootkvm.Run(t, k, boot.Options{}, func(port uint16, data []byte) {
		if len(data) != 4 {
			t.Errorf("a read of %d bytes from port %#x, want 4", len(data), port)
			return
		}
		binary.LittleEndian.PutUint32(data, 0x1000+uint32(port))
	})
	var got []string
	for _, a := range accesses {
		switch register, ok := ports.Register(a.Port); {
		case ok:
			got = append(got, fmt.Sprintf("cr4 from register %d, %#x", register, a.Regs.R9))
		case a.Write:
			got = append(got, fmt.Sprintf("out %#x, %#x", a.Port, a.Regs.RAX))
		default:
			got = append(got, fmt.Sprintf("in %#x", a.Port))
		}
	}
	want := []string{"in 0xe0", "out 0x80, 0x10e0", "in 0xe1", "out 0x80, 0x10e1", "cr4 from register 9, 0x24"}
	if !slices.Equal(got, want) {
		t.Errorf("the guest did %q, want %q", got, want)
	}
}
