package boot

import (
	"bytes"
	"encoding/binary"
)

// Offsets into a bzImage and, alike, into boot_params (boot.rst, "The Real-Mode Kernel Header").
const (
	hdrStart         = 0x1f1
	hdrSetupSects    = 0x1f1
	hdrBootFlag      = 0x1fe
	hdrJump          = 0x200 // a short jump; its operand gives the header's end: 0x202 + operand
	hdrMagic         = 0x202
	hdrVersion       = 0x206
	hdrTypeOfLoader  = 0x210
	hdrLoadflags     = 0x211
	hdrRamdiskImage  = 0x218
	hdrRamdiskSize   = 0x21c
	hdrCmdLinePtr    = 0x228
	hdrInitrdAddrMax = 0x22c
	hdrXloadflags    = 0x236
	hdrCmdlineSize   = 0x238
	hdrPayloadOffset = 0x248
	hdrPayloadLength = 0x24c
	hdrSetupData     = 0x250
	hdrPrefAddress   = 0x258
	hdrEnd           = 0x290 // boot_params has other fields from here on
)

const (
	headerMagic   = "HdrS"
	bootFlagValue = 0xaa55

	protocolPayload     = 0x0208 // payload_offset and payload_length exist from here on
	protocolXloadflags  = 0x020c
	protocolSynthesised = 0x020f // what we claim for a kernel that came as ELF

	loadflagLoadedHigh = 1 << 0
	xloadflagKernel64  = 1 << 0

	sectorBytes       = 512
	defaultSetupSects = 4 // boot.rst: a setup_sects of 0 means 4

	// headerMinBytes is where the fields that protocol 2.08 has end.
	headerMinBytes = hdrSetupData
)

// ExtractELF returns the ELF file that a bzImage's payload unpacks to: what the kernel's build calls vmlinux, without
// symbols.
func ExtractELF(image []byte) ([]byte, error) {
	unpacked, _, _, err := extract(image)
	return unpacked, err
}

// readBzImage finds the payload by the setup header, unpacks it, and parses the ELF file in it.
func readBzImage(image []byte) (*Kernel, error) {
	unpacked, compression, header, err := extract(image)
	if err != nil {
		return nil, err
	}
	k, err := parseELFBytes(unpacked)
	if err != nil {
		return nil, err
	}
	k.Format = FormatBzImage
	k.Compression = compression
	k.header = header
	return k, nil
}

// extract returns a bzImage's unpacked payload, which starts like an ELF file, how it was packed, and the setup header.
func extract(image []byte) (unpacked []byte, compression string, header []byte, err error) {
	if header, err = parseSetupHeader(image); err != nil {
		return nil, "", nil, err
	}
	payload, err := findPayload(image, header)
	if err != nil {
		return nil, "", nil, err
	}
	if unpacked, compression, err = unpack(payload); err != nil {
		return nil, "", nil, err
	}
	if !bytes.HasPrefix(unpacked, elfMagic) {
		return nil, "", nil, refuse(ErrNotKernel, "its %s payload does not hold an ELF file", compression)
	}
	return unpacked, compression, header, nil
}

// parseSetupHeader checks the header and returns it as the bytes from hdrStart to hdrEnd, zero where the image's own header is
// shorter.
func parseSetupHeader(image []byte) ([]byte, error) {
	if len(image) < hdrMagic+len(headerMagic) {
		return nil, refuse(ErrNotKernel, "%d bytes are too few for a setup header; give a bzImage or an ELF vmlinux", len(image))
	}
	if string(image[hdrMagic:hdrMagic+len(headerMagic)]) != headerMagic ||
		binary.LittleEndian.Uint16(image[hdrBootFlag:]) != bootFlagValue {
		return nil, refuse(ErrNotKernel, "neither a bzImage setup header nor an ELF header; give a bzImage or an ELF vmlinux")
	}
	if len(image) < headerMinBytes {
		return nil, refuse(ErrTruncated, "it ends inside the setup header, at byte %d; fetch or build it again", len(image))
	}
	version := binary.LittleEndian.Uint16(image[hdrVersion:])
	if version < protocolPayload {
		return nil, refuse(ErrOldProtocol, "boot protocol %d.%02d, need 2.08 (Linux 2.6.26) or later", version>>8, version&0xff)
	}
	if image[hdrLoadflags]&loadflagLoadedHigh == 0 {
		return nil, refuse(ErrOldProtocol, "a zImage that loads below 1 MiB; build a bzImage")
	}
	end := min(hdrMagic+int(image[hdrJump+1]), hdrEnd, len(image))
	if end < headerMinBytes {
		return nil, refuse(ErrCorrupt, "its setup header ends at %#x, before payload_length; fetch or build it again", end)
	}
	header := make([]byte, hdrEnd-hdrStart)
	copy(header, image[hdrStart:end])
	if version >= protocolXloadflags &&
		binary.LittleEndian.Uint16(header[hdrXloadflags-hdrStart:])&xloadflagKernel64 == 0 {
		return nil, refuse(ErrNot64Bit, "the setup header has no 64-bit entry; give an x86-64 kernel")
	}
	return header, nil
}

// findPayload returns the packed kernel inside a bzImage: payload_offset counts from the protected-mode code, which follows
// the boot sector and setup_sects sectors of real-mode code.
func findPayload(image, header []byte) ([]byte, error) {
	sectors := uint64(header[hdrSetupSects-hdrStart])
	if sectors == 0 {
		sectors = defaultSetupSects
	}
	offset := uint64(binary.LittleEndian.Uint32(header[hdrPayloadOffset-hdrStart:]))
	length := uint64(binary.LittleEndian.Uint32(header[hdrPayloadLength-hdrStart:]))
	if length == 0 {
		return nil, refuse(ErrCorrupt, "its setup header names an empty payload; fetch or build it again")
	}
	start := (1+sectors)*sectorBytes + offset
	if end := start + length; end > uint64(len(image)) {
		return nil, refuse(ErrTruncated, "its payload ends at byte %d, the file at byte %d; fetch or build it again", end, len(image))
	}
	return image[start : start+length], nil
}
