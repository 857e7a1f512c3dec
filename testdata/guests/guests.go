// Package guests holds small guests for tests of the machine, one per behaviour: GNU assembler sources (NAME.S), which say
// what they do, and beside them the ELF files that build.sh makes of them. They are entered by Linux's 64-bit boot
// protocol, report through the debug port (0xe9), and end with interrupts off and HLT unless they say otherwise.
//
// They use no instruction beyond those that every KVM executes, also one that interprets guest code.
package guests

import (
	"embed"
	"fmt"
	"slices"
	"strings"
)

// ParamAddress is where a guest that takes a parameter finds it: a little-endian quadword, at a guest physical address
// that loading a kernel leaves alone.
const ParamAddress = 0x8f000

// MMIODevice is the guest physical address at which the guest "mmio" wants a page of plain storage.
const MMIODevice = 0xfed00000

// PatternAddress is where the guest "pattern" writes first; it writes every second page, at offset 8, the complement of
// the page's address.
const PatternAddress = 0x200000

// randomFrame is the guest that is no guest without a program: see Random.
const randomFrame = "random"

//go:embed *.elf
var files embed.FS

// Names returns the guests' names in alphabetical order.
func Names() []string {
	entries, err := files.ReadDir(".")
	if err != nil {
		panic(err) // an embedded folder can't fail to be read
	}
	var names []string
	for _, e := range entries {
		if name := strings.TrimSuffix(e.Name(), ".elf"); name != randomFrame {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Image returns a guest's ELF file. It panics if there is no such guest.
func Image(name string) []byte {
	image, err := files.ReadFile(name + ".elf")
	if err != nil {
		panic(fmt.Sprintf("guests: no guest %q", name))
	}
	return image
}
