// Package wire is the log of a machine: what a record is, how records are written as bytes, the ring in memory through
// which they go, the frames in which they reach a peer or a file, and the coding of machine states and guest pages.
//
// The package knows positions, kinds and bytes. It imports neither kvm nor devices nor vmm, and it looks at no clock:
// whoever calls Flush decides when records become visible.
//
// # Owners
//
// An [Encoder], a [Decoder], a [PageWriter], a [PageReader] and a [Reader] belong to one goroutine each. A [Ring] has
// one producer, the goroutine that owns the machine, and any number of readers, each with a goroutine of its own.
//
// # Conventions
//
// Integers are little-endian. uvarint is the base-128 coding of encoding/binary (7 bits a byte, low bits first), in at
// most 10 bytes, and only in its shortest form. Bits and bytes called zero are checked to be zero. Every length has a
// bound with a name and is compared with it before anything is read or allocated. Checksums are CRC-32C. Numbers of
// kinds, flags and causes are explicit and never renumbered.
//
// # Header
//
// A log in a file begins with this header ([Header]).
//
//	offset  size  field
//	0       8     magic "TNDMLOG\n"
//	8       2     version: 1
//	10      2     flags: zero
//	12      4     length n of the configuration, at most MaxConfiguration
//	16      32    fingerprint of the machine (Fingerprint): SHA-256
//	48      12    zero
//	60      4     checksum of bytes 0 to 59 and of the configuration
//	64      n     the configuration: JSON, what is needed to make the same machine again
//
// # Frame
//
// Behind the header, and on a connection between two hosts, come frames. A frame can be decoded alone: it says where in
// the log it stands.
//
//	offset  size  field
//	0       2     marker 0xf7 0x54, so that zeros are no frame
//	2       1     flags: bit 0 the body is compressed (zstd, one frame, its size in its header); others zero
//	3       1     zero
//	4       4     length n of the body as stored, 1 to MaxFrame
//	8       8     sequence number of the first record; the first record of a machine's log is number 1
//	16      8     position base: what the first record's position is relative to
//	24      8     time base: what the first time in the frame is relative to; not negative as a signed number
//	32      4     number of records, at least 1
//	36      4     checksum of bytes 0 to 35 and of the body as stored
//	40      n     body: the records
//
// Frames of one log follow each other without a gap: sequence, position and time base are where the last frame ended.
//
// # Record
//
// A record is a head and what its kind adds. The head is a uvarint: the position's distance from the record before,
// times 16, plus the kind. So a timer tick takes 1 byte up to 7 exits after the record before, and 2 up to 1,023. "time"
// is a uvarint: the guest clock in ns, less that of the last record that has a time. "bytes" is a uvarint length and
// that many bytes.
//
//	kind           number  behind the head
//	KindClock      1       time
//	KindTick       2       nothing
//	KindConsole    3       u8 device, bytes
//	KindFrame      4       u8 device, bytes
//	KindDisk       5       u8 device, bytes
//	KindRandom     6       u8 device, bytes
//	KindPower      7       nothing
//	KindDigest     8       u8 flags, time, u64 hash; with flag 1: registers
//	KindDelta      9       u8 flags, bytes
//	KindMemory     10      uvarint first page, bytes: a u64 hash for each of the pages
//	KindCheckpoint 11      time, uvarint number
//	KindOutput     12      u8 device, u8 kind, uvarint length, u64 hash
//	KindEnd        13      u8 cause, time, bytes: a message in UTF-8
//	KindDevices    14      bytes: a u64 hash for each of the devices
//
// 0 is never a kind, so that zeros are no record; 15 is kept for an escape to more kinds. Why each kind
// exists stands beside its constant.
//
// Flags of KindDigest: 1 there are registers, 2 they are whole. Registers are a uvarint mask, bit i for register i of
// [Registers], and for each bit that is set, in rising order, a uvarint: the register's difference from the same
// register in the last image (from 0 if whole), zigzag-coded (0, -1, 1, -2, …) and not 0. The image before is that of
// the last digest with registers in the same frame; the first one in a frame is whole.
//
// Flags of KindDelta: 1 it is the last part of its delta. The parts' bytes in a row are a stream of pages (below).
//
// # Stream of pages
//
// A machine's state and guest pages, as [PageWriter] writes and [PageReader] reads them: a forced stop's delta, a
// checkpoint, a state transfer. It is a row of blocks.
//
//	offset  size  field
//	0       1     type: 1 state, 2 pages, 3 end, 4 reset
//	1       1     coding: 0 plain, 1 zstd
//	2       2     zero
//	4       4     length n of the body as stored; 0 for end and reset
//	8       4     length of the body as it is meant, at most MaxBlock
//	12      4     checksum of bytes 0 to 11 and of the body as stored
//	16      n     body
//
// First comes reset, if both sides are to empty their [Shadow] (a new peer knows nothing of what was sent before), then
// state blocks, whose bodies in a row are one blob of at most MaxState bytes that means nothing here, then pages
// blocks, then end. A pages block is a row of pages whose numbers rise through the whole stream:
//
//	uvarint  (number - number of the page before - 1) × 8 + coding; for the first page the one before is -1
//	...      by coding:
//	         0 zero: nothing; the page is all zero
//	         1 plain: the page's 4096 bytes
//	         2 same: nothing; the page is as in the shadow. It was written and has its old content again, but the
//	           reader's machine may have another there. In a stream without a shadow: the page is as the reader's host has it
//	           in hand and has told ([PageWriter.Same])
//	         3 differences: runs of words of 8 bytes that differ from the shadow's page; each word is a uvarint, its
//	           difference from the shadow's word as a number, zigzag-coded
//	         4 words: runs of words that differ; each word is its 8 bytes
//
// Runs name the page's 512 words from the first to the last: a uvarint, how many words are as in the shadow; unless the
// page ends there, a uvarint, how many words follow that differ (at least 1), and those words; and so on until the
// page ends. Differences are small where a guest counts and moves pointers, words compress well where it fills buffers:
// the writer takes what is shorter. A page comes by coding 2, 3 or 4 only if the shadow, or the reader's
// hand, has it. When a page is written
// or read, the shadow gets its content.
//
// A delta that is cut off must not be applied in part: a peer waits for the last part before it touches its machine.
//
// # Checkpoint
//
// A checkpoint is a file of its own ([Checkpoint]): a header as above with the magic "TNDMCKP\n", then
//
//	offset  size  field
//	0       8     number of the checkpoint
//	8       8     sequence number of the first record of the log that comes after it
//	16      8     position
//	24      8     time base
//	32      4     checksum of bytes 0 to 31
//	36      4     zero
//
// and a stream of pages without a shadow.
package wire
