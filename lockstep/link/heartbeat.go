package link

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	beatMagic      = 0x42484454 // "TDHB"
	beatVersion    = 1
	beatHeaderSize = 16
	beatTagSize    = 16
	// MaxBeatBytes bounds a heartbeat's payload: with its headers it fits into one packet on any network.
	MaxBeatBytes = 1024

	senderDialer   uint8 = 1
	senderListener uint8 = 2

	// exporterLabel separates the heartbeats' keys from any other use of the connection's (RFC 8446 §7.5).
	exporterLabel = "EXPORTER-tandem-heartbeat-1"
	beatKeySize   = 32

	// beatPatience is how long Send waits for the network to take a heartbeat.
	beatPatience = 10 * time.Millisecond
)

// ErrNoPeerAddress says that no heartbeat has come yet that would tell where to send one.
var ErrNoPeerAddress = errors.New("the peer's heartbeat address is not known yet")

// errForged says that a datagram is not one of the peer's, or not a new one.
var errForged = errors.New("not a new heartbeat of the peer")

// Heartbeat is the second path beside a connection: datagrams that only the connection's two ends can make. They may get
// lost; they never come twice and never come late.
type Heartbeat struct {
	socket   net.PacketConn
	sealer   sealer // Invariant: lives as long as its key, so a counter is never used twice
	opener   opener
	refusals *refusals
	buffer   [beatHeaderSize + MaxBeatBytes + beatTagSize + 1]byte // of the receiving goroutine

	// mu guards peer and the sealer.
	mu   sync.Mutex
	peer net.Addr // nil until known
}

// OpenHeartbeat begins heartbeats on a UDP socket, once per connection. The socket should be bound to an address on another
// network path than the connection's. Without a peer's address (the listener's side, as a rule) it is learned from the
// first datagram that proves itself, and followed when it changes.
func (c *Conn) OpenHeartbeat(socket net.PacketConn, peer netip.AddrPort) (*Heartbeat, error) {
	if c.beating.Swap(true) {
		return nil, fmt.Errorf("link: this connection has its heartbeats already")
	}
	state := c.tls.ConnectionState()
	keys, err := state.ExportKeyingMaterial(exporterLabel, nil, 2*beatKeySize)
	if err != nil {
		return nil, fmt.Errorf("link: deriving the heartbeats' keys: %w", err)
	}
	own, other := senderDialer, senderListener
	if !c.dialer {
		own, other = other, own
	}
	h := &Heartbeat{socket: socket, refusals: newRefusals(c.config.Log, time.Now)}
	if peer.IsValid() {
		h.peer = net.UDPAddrFromAddrPort(peer)
	}
	if h.sealer.aead, err = beatCipher(keys, own); err != nil {
		return nil, err
	}
	if h.opener.aead, err = beatCipher(keys, other); err != nil {
		return nil, err
	}
	h.sealer.sender, h.opener.sender = own, other
	return h, nil
}

// beatCipher takes a sender's key out of both.
func beatCipher(keys []byte, sender uint8) (cipher.AEAD, error) {
	start := int(sender-1) * beatKeySize
	block, err := aes.NewCipher(keys[start : start+beatKeySize])
	if err != nil {
		return nil, fmt.Errorf("link: heartbeats: %w", err)
	}
	return cipher.NewGCM(block)
}

// Send sends a heartbeat with a payload of at most MaxBeatBytes. An error tells of this one alone: the next may get
// through. It may be called from any goroutine.
func (h *Heartbeat) Send(payload []byte) error {
	if len(payload) > MaxBeatBytes {
		return fmt.Errorf("%w: a heartbeat of %d bytes, the bound is %d", ErrOversize, len(payload), MaxBeatBytes)
	}
	h.mu.Lock()
	peer := h.peer
	if peer == nil {
		h.mu.Unlock()
		return ErrNoPeerAddress
	}
	datagram := h.sealer.seal(payload)
	h.mu.Unlock()
	// Whoever sends has more to do: a network that takes nothing costs no more than this.
	_ = h.socket.SetWriteDeadline(time.Now().Add(beatPatience))
	if _, err := h.socket.WriteTo(datagram, peer); err != nil {
		return fmt.Errorf("link: sending a heartbeat: %w", err)
	}
	return nil
}

// Receive waits for the peer's next heartbeat. The payload is valid until the next call. What is not the peer's is counted
// and left out. It belongs to one goroutine; Close or a deadline on the socket ends it.
func (h *Heartbeat) Receive() ([]byte, error) {
	for {
		n, from, err := h.socket.ReadFrom(h.buffer[:])
		if err != nil {
			return nil, fmt.Errorf("link: waiting for a heartbeat: %w", err)
		}
		payload, err := h.opener.open(h.buffer[:n])
		if err != nil {
			h.refusals.add(from, err)
			continue
		}
		h.mu.Lock()
		h.peer = from
		h.mu.Unlock()
		return payload, nil
	}
}

// Refused counts the datagrams that were left out.
func (h *Heartbeat) Refused() uint64 { return h.refusals.count() }

// Close closes the socket.
func (h *Heartbeat) Close() error { return h.socket.Close() }

// sealer makes one sender's datagrams.
type sealer struct {
	aead    cipher.AEAD
	sender  uint8
	counter uint64 // of the last datagram
}

func (s *sealer) seal(payload []byte) []byte {
	s.counter++
	le := binary.LittleEndian
	b := make([]byte, 0, beatHeaderSize+len(payload)+beatTagSize)
	b = le.AppendUint32(b, beatMagic)
	b = append(b, beatVersion, s.sender, 0, 0)
	b = le.AppendUint64(b, s.counter)
	nonce := beatNonce(s.counter)
	return s.aead.Seal(b, nonce[:], payload, b)
}

// beatNonce is unique under a key because a key has one sender, and its counter only grows.
func beatNonce(counter uint64) (nonce [12]byte) {
	binary.LittleEndian.PutUint64(nonce[4:], counter)
	return nonce
}

// opener takes one sender's datagrams.
type opener struct {
	aead    cipher.AEAD
	sender  uint8
	counter uint64 // of the last one taken
}

// open returns a datagram's payload, in the datagram's own bytes. One that is older than another already taken is refused:
// a late sign of life is none.
func (o *opener) open(datagram []byte) ([]byte, error) {
	le := binary.LittleEndian
	if len(datagram) < beatHeaderSize+beatTagSize || len(datagram) > beatHeaderSize+MaxBeatBytes+beatTagSize ||
		le.Uint32(datagram) != beatMagic {
		return nil, fmt.Errorf("%w: no heartbeat", errForged)
	}
	if datagram[4] != beatVersion || datagram[5] != o.sender || datagram[6]|datagram[7] != 0 {
		return nil, fmt.Errorf("%w: version %d, sender %d", errForged, datagram[4], datagram[5])
	}
	counter := le.Uint64(datagram[8:])
	if counter <= o.counter {
		return nil, fmt.Errorf("%w: number %d after %d", errForged, counter, o.counter)
	}
	nonce := beatNonce(counter)
	head := datagram[:beatHeaderSize]
	payload, err := o.aead.Open(datagram[beatHeaderSize:beatHeaderSize], nonce[:], datagram[beatHeaderSize:], head)
	if err != nil {
		return nil, fmt.Errorf("%w: it is not sealed with this connection's key", errForged)
	}
	o.counter = counter
	return payload, nil
}
