package boot

import "encoding/binary"

// Offsets of the boot_params fields outside the setup header (Documentation/arch/x86/zero-page.rst, and
// arch/x86/include/uapi/asm/bootparam.h).
const (
	bpE820Entries   = 0x1e8
	bpE820Table     = 0x2d0
	bootParamsBytes = pageBytes
)

const (
	typeOfLoaderOther      = 0xff // boot.rst: a loader without an assigned number
	defaultCmdlineMaxBytes = 2047 // COMMAND_LINE_SIZE less the NUL
	defaultInitrdAddrMax   = 0x7fffffff

	setupDataRNGSeed     = 9  // SETUP_RNG_SEED
	setupDataHeaderBytes = 16 // struct setup_data: next (8), type (4), length (4)
)

// placement is what boot_params says about where Load put things. A zero address or size means that there is none.
type placement struct {
	cmdline    uint64
	initrd     uint64
	initrdSize uint64
	setupData  uint64
}

// bootParams builds the zero page. A bzImage's own setup header is carried over, as boot.rst asks; for an ELF file one is
// made up that claims no more than the fields below. So the page is the only place where loading a bzImage and loading the
// ELF file in it can differ.
func bootParams(k *Kernel, p placement, regions []Region) []byte {
	page := make([]byte, bootParamsBytes)
	le := binary.LittleEndian
	if k.header != nil {
		copy(page[hdrStart:], k.header)
	} else {
		synthesiseHeader(page)
	}
	page[hdrTypeOfLoader] = typeOfLoaderOther
	le.PutUint32(page[hdrCmdLinePtr:], uint32(p.cmdline))
	le.PutUint32(page[hdrRamdiskImage:], uint32(p.initrd))
	le.PutUint32(page[hdrRamdiskSize:], uint32(p.initrdSize))
	le.PutUint64(page[hdrSetupData:], p.setupData)

	table, entries := e820(regions)
	page[bpE820Entries] = byte(entries)
	copy(page[bpE820Table:], table)
	return page
}

// synthesiseHeader writes the setup header fields that a kernel entered at startup_64 looks at or checks.
func synthesiseHeader(page []byte) {
	le := binary.LittleEndian
	le.PutUint16(page[hdrBootFlag:], bootFlagValue)
	copy(page[hdrMagic:], headerMagic)
	le.PutUint16(page[hdrVersion:], protocolSynthesised)
	page[hdrLoadflags] = loadflagLoadedHigh
	le.PutUint32(page[hdrInitrdAddrMax:], defaultInitrdAddrMax)
	le.PutUint16(page[hdrXloadflags:], xloadflagKernel64)
	le.PutUint32(page[hdrCmdlineSize:], defaultCmdlineMaxBytes)
}

// setupData builds the one entry of the setup_data chain: entropy for the kernel's random number generator, which trusts it if
// built with CONFIG_RANDOM_TRUST_BOOTLOADER and then does not spin on the time-stamp counter at boot.
func setupData(seed []byte) []byte {
	entry := make([]byte, setupDataHeaderBytes, setupDataHeaderBytes+len(seed))
	binary.LittleEndian.PutUint32(entry[8:], setupDataRNGSeed)
	binary.LittleEndian.PutUint32(entry[12:], uint32(len(seed)))
	return append(entry, seed...)
}
