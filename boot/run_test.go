package boot_test

import (
	"os"
	"testing"

	"tandem/boot"
	"tandem/boot/internal/bootkvm"
)

// The processor must accept the entry state: tiny.elf calls, returns and writes "ok" through the page tables and the stack
// that Load made, and reads its command line through RSI, as a kernel does.
func TestRunTinyKernel(t *testing.T) {
	image, err := os.ReadFile("testdata/kernel/tiny.elf")
	if err != nil {
		t.Fatal(err)
	}
	k, err := boot.ReadKernel(image)
	if err != nil {
		t.Fatal(err)
	}
	accesses := bootkvm.Run(t, k, boot.Options{Cmdline: "!"}, nil)
	var said []byte
	for _, a := range accesses {
		if a.Port != 0xe9 || !a.Write {
			t.Errorf("access %+v, want writes to port 0xe9", a)
		}
		said = append(said, a.Data)
	}
	if string(said) != "ok!" {
		t.Errorf("the guest said %q, want %q", said, "ok!")
	}
}
