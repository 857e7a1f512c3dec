package blk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"tandem/devices/virtio"
)

// Sizes and offsets of the overlay format; the package comment has the whole of it.
const (
	overlayMagic   = "TANDEMOV"
	overlayVersion = 1

	headerSize   = 4096
	clusterSize  = 4096
	mapSector    = 512
	mapBytes     = mapSector - 4
	mapBits      = mapBytes * 8
	pathOffset   = 76
	maxPath      = 4012
	reservedAt   = pathOffset + maxPath
	checksumAt   = headerSize - 4
	fingerprintN = 32
)

// maxDiskSize keeps every offset in an overlay well inside an int64.
const maxDiskSize = 1 << 60

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header says what an overlay is of.
type header struct {
	size        int64 // of the disk in bytes
	fingerprint [fingerprintN]byte
	base        string
}

func (h *header) clusters() int64   { return (h.size + clusterSize - 1) / clusterSize }
func (h *header) mapSectors() int64 { return (h.clusters() + mapBits - 1) / mapBits }

func (h *header) dataOffset() int64 {
	end := headerSize + h.mapSectors()*mapSector
	return (end + clusterSize - 1) / clusterSize * clusterSize
}

// encode returns the header's bytes.
func (h *header) encode() ([]byte, error) {
	if len(h.base) == 0 || len(h.base) > maxPath {
		return nil, fmt.Errorf("the base's path has %d bytes, 1 to %d are possible", len(h.base), maxPath)
	}
	p := make([]byte, headerSize)
	le := binary.LittleEndian
	copy(p, overlayMagic)
	le.PutUint32(p[8:], overlayVersion)
	le.PutUint32(p[12:], clusterSize)
	le.PutUint64(p[16:], uint64(h.size))
	le.PutUint64(p[24:], uint64(h.mapSectors()))
	le.PutUint64(p[32:], uint64(h.dataOffset()))
	copy(p[40:], h.fingerprint[:])
	le.PutUint32(p[72:], uint32(len(h.base)))
	copy(p[pathOffset:], h.base)
	le.PutUint32(p[checksumAt:], crc32.Checksum(p[:checksumAt], castagnoli))
	return p, nil
}

// errNotOverlay says that a file is something else altogether.
var errNotOverlay = errors.New("it is not an overlay; its first bytes are not " + overlayMagic)

// decodeHeader reads what encode wrote.
func decodeHeader(p []byte) (*header, error) {
	if len(p) != headerSize || string(p[:8]) != overlayMagic {
		return nil, errNotOverlay
	}
	le := binary.LittleEndian
	if v := le.Uint32(p[8:]); v != overlayVersion {
		return nil, fmt.Errorf("it is an overlay of version %d, and this program knows version %d", v, overlayVersion)
	}
	if le.Uint32(p[checksumAt:]) != crc32.Checksum(p[:checksumAt], castagnoli) {
		return nil, errors.New("the overlay's header is damaged: its checksum is wrong; restore the file from a copy")
	}
	size, path := le.Uint64(p[16:]), le.Uint32(p[72:])
	if size == 0 || size > maxDiskSize || size%virtio.SectorSize != 0 || path == 0 || path > maxPath {
		return nil, errors.New("the overlay's header is damaged: it has an impossible size or path")
	}
	h := &header{size: int64(size), base: string(p[pathOffset : pathOffset+path])}
	copy(h.fingerprint[:], p[40:])
	again, err := h.encode()
	if err != nil || string(again) != string(p) {
		return nil, errors.New("the overlay's header is damaged: fields contradict each other or reserved bytes are in use")
	}
	return h, nil
}

// sealMapSector writes the checksum of map sector i behind its bits.
func sealMapSector(i int64, p []byte) {
	binary.LittleEndian.PutUint32(p[mapBytes:], mapChecksum(i, p))
}

// checkMapSector reports whether p can be map sector i.
func checkMapSector(i int64, p []byte) error {
	if binary.LittleEndian.Uint32(p[mapBytes:]) == mapChecksum(i, p) {
		return nil
	}
	for _, v := range p {
		if v != 0 {
			return fmt.Errorf("the overlay's map is damaged: the checksum of sector %d is wrong; restore the file from a copy", i)
		}
	}
	return nil
}

func mapChecksum(i int64, p []byte) uint32 {
	index := binary.LittleEndian.AppendUint64(nil, uint64(i))
	return crc32.Update(crc32.Checksum(index, castagnoli), castagnoli, p[:mapBytes])
}
