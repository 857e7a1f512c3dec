// Package link joins the two hosts of a pair: one authenticated connection that carries opaque messages, and beside it
// authenticated datagrams for heartbeats.
//
// # Contract
//
// Nobody without a key of the pair joins, reads or injects. The connection is TCP under TLS 1.3 with a key on both sides;
// a host accepts exactly the certificates in its trust file, bit for bit, so there is no authority that could sign more
// (keys.go). The protocol's version is the ALPN name: a peer of another version is refused by name, before any message.
// Session tickets and early data are off, so every connection has fresh keys: bytes of an old one cannot be replayed into
// a new one. What a stranger can do is bounded: so many handshakes at once, so many bytes, so much time; a refusal is
// logged at a bounded rate and leaves established connections alone.
//
// Messages have a kind, which belongs to the protocol above (kind 0 is the link's own), and a payload of bounded size.
// They arrive complete, once and in order, or the connection ends with an error. Send only fills a buffer; Flush hands it
// to the kernel at once (TCP_NODELAY). What gates output is flushed, the rest is batched.
//
// # Goroutines
//
// Send and Flush may be called from several goroutines, Receive from one. Close may be called from any, and ends the
// others' calls. This package is the host's side: it has sockets, clocks and goroutines, unlike lockstep itself.
//
// # Format
//
// A frame is a header of 20 bytes, little-endian, and the payload:
//
//	 0  u32  payload's length in bytes
//	 4  u8   kind: 0 the link's own, empty: accepted (the listener's first frame), or the end; others the protocol's
//	 5  u8×3 zero
//	 8  u64  sequence: 1, 2, 3, … in each direction
//	16  u32  CRC-32C of the header's first 16 bytes and the payload
//
// TLS already keeps the network from changing a frame. The checksum and the sequence find what happens outside of TLS: a
// fault in a host's memory, or in this package.
//
// A heartbeat is a datagram of a header of 16 bytes, little-endian, and a sealed payload:
//
//	 0  u32  magic "TDHB"
//	 4  u8   version: 1
//	 5  u8   sender: 1 the dialer, 2 the listener
//	 6  u16  zero
//	 8  u64  counter: 1, 2, 3, … from each sender; a receiver takes only one higher than all before
//	16       AES-256-GCM of the payload, with the header as additional data
//
// Its keys, one per direction, come from the connection by the exporter of TLS 1.3 (RFC 8446 §7.5), so heartbeats need no
// keys of their own and those of one connection mean nothing to the next. Datagrams rather than a second TLS connection,
// because a lost segment must not hold back the beats behind it: a retransmission timeout of 200 ms is most of the time in
// which a peer's death is to be found.
package link
