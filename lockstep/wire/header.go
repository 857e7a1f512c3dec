package wire

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Version is the version of the format. A change that old readers would misread gives it another number.
const Version = 1

// LogName is the name of the log in the directory of a recording.
const LogName = "machine.log"

// MaxConfiguration bounds the configuration in a header, in bytes.
const MaxConfiguration = 1 << 20

const (
	logMagic        = "TNDMLOG\n"
	checkpointMagic = "TNDMCKP\n"
	headerSize      = 64
)

// Fingerprint names a machine: two machines with equal fingerprints execute the same inputs alike.
type Fingerprint [sha256.Size]byte

func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

// Part is one thing that a machine's fingerprint is made of.
type Part struct {
	Name  string
	Bytes []byte
}

// FingerprintOf returns the hash of parts, in their order. Names and lengths go into it, so that no two lists of parts
// have the same bytes.
func FingerprintOf(parts ...Part) Fingerprint {
	h := sha256.New()
	var length [8]byte
	for _, p := range parts {
		for _, b := range [][]byte{[]byte(p.Name), p.Bytes} {
			binary.LittleEndian.PutUint64(length[:], uint64(len(b)))
			h.Write(length[:])
			h.Write(b)
		}
	}
	return Fingerprint(h.Sum(nil))
}

// Header is the start of a log in a file.
type Header struct {
	Fingerprint Fingerprint
	// Configuration is JSON with what is needed to make the same machine again. Its meaning is package vmm's.
	Configuration []byte
}

// ErrNoLog says that the bytes are not a log of this program.
var ErrNoLog = errors.New("this is not a Tandem log")

// Append appends the header's bytes to dst.
func (h *Header) Append(dst []byte) ([]byte, error) { return h.append(dst, logMagic) }

func (h *Header) append(dst []byte, magic string) ([]byte, error) {
	if len(h.Configuration) > MaxConfiguration {
		return dst, fmt.Errorf("a configuration of %d bytes, at most %d fit in a header", len(h.Configuration), MaxConfiguration)
	}
	le := binary.LittleEndian
	start := len(dst)
	dst = append(dst, magic...)
	dst = le.AppendUint16(dst, Version)
	dst = le.AppendUint16(dst, 0)
	dst = le.AppendUint32(dst, uint32(len(h.Configuration)))
	dst = append(dst, h.Fingerprint[:]...)
	dst = append(dst, make([]byte, 12)...)
	sum := crc32.Update(crc32.Checksum(dst[start:], castagnoli), castagnoli, h.Configuration)
	dst = le.AppendUint32(dst, sum)
	return append(dst, h.Configuration...), nil
}

// ReadHeader reads a log's header and returns it with the number of bytes that it took.
func ReadHeader(r io.Reader) (Header, int64, error) { return readHeader(r, logMagic, ErrNoLog) }

// readHeader reads a header that begins with magic; other is the error if it does not.
func readHeader(r io.Reader, magic string, other error) (Header, int64, error) {
	var p [headerSize]byte
	n, err := io.ReadFull(r, p[:])
	switch {
	case n >= len(magic) && string(p[:len(magic)]) != magic, err != nil && n < len(magic):
		return Header{}, int64(n), other
	case err != nil:
		return Header{}, int64(n), torn("its header", err)
	}
	le := binary.LittleEndian
	if v := le.Uint16(p[8:]); v != Version {
		return Header{}, headerSize, fmt.Errorf("its format is version %d, this program reads version %d: use the release that wrote it", v, Version)
	}
	length := le.Uint32(p[12:])
	if length > MaxConfiguration {
		return Header{}, headerSize, fmt.Errorf("its header is damaged: a configuration of %d bytes, at most %d allowed", length, MaxConfiguration)
	}
	h := Header{Fingerprint: Fingerprint(p[16:48])}
	if h.Configuration, err = readExactly(r, nil, int(length)); err != nil {
		return Header{}, headerSize, torn("its header", err)
	}
	sum := crc32.Update(crc32.Checksum(p[:60], castagnoli), castagnoli, h.Configuration)
	if stored := le.Uint32(p[60:]); stored != sum {
		return Header{}, headerSize, fmt.Errorf("its header is damaged: its checksum is %08x, its bytes have %08x", stored, sum)
	}
	if le.Uint16(p[10:]) != 0 || [12]byte(p[48:60]) != [12]byte{} {
		return Header{}, headerSize, errors.New("reserved bits of its header are set: a newer release wrote this")
	}
	return h, headerSize + int64(length), nil
}

// torn describes a read that did not get all bytes.
func torn(what string, err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return fmt.Errorf("the file ends inside %s", what)
	}
	return fmt.Errorf("read %s: %w", what, err)
}
