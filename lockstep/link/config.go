package link

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Bounds on what has not proved itself, and on waiting.
const (
	// MaxPending is how many connections may be proving themselves at once; one more ends the oldest. A pair needs one.
	MaxPending = 16
	// MaxHandshakeBytes is what a connection may send before it has proved itself. A handshake takes about 2 KiB.
	MaxHandshakeBytes = 16 << 10
	// DefaultHandshakeTimeout is how long it may take for that.
	DefaultHandshakeTimeout = 5 * time.Second
	// DefaultWriteTimeout is how long a peer may leave what was sent to it unread.
	DefaultWriteTimeout = 10 * time.Second
)

const protocolPrefix = "tandem/"

// Config is what both ends of a link need.
type Config struct {
	Credentials *Credentials
	// Version is that of the protocol above. Ends of different versions refuse each other.
	Version uint16
	// Log gets refusals, at a bounded rate, and accepted peers. Nil discards.
	Log *slog.Logger
	// MaxPayloadBytes bounds a message in both directions; 0 stands for DefaultMaxPayloadBytes.
	MaxPayloadBytes int
	// HandshakeTimeout is how long a peer may take to prove itself; 0 stands for DefaultHandshakeTimeout.
	HandshakeTimeout time.Duration
	// ReadTimeout is how long Receive waits for the peer's next bytes; 0 waits for ever.
	ReadTimeout time.Duration
	// WriteTimeout is how long Flush waits for the peer to take bytes; 0 stands for DefaultWriteTimeout.
	WriteTimeout time.Duration
}

// complete checks the configuration and fills in what was left out.
func (c Config) complete() (Config, error) {
	if c.Credentials == nil {
		return c, fmt.Errorf("a link needs keys: make them with tandem keygen")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.MaxPayloadBytes == 0 {
		c.MaxPayloadBytes = DefaultMaxPayloadBytes
	}
	if c.MaxPayloadBytes < 0 || c.MaxPayloadBytes > HighestMaxPayloadBytes {
		return c, fmt.Errorf("messages of up to %d bytes: the bound is %d", c.MaxPayloadBytes, HighestMaxPayloadBytes)
	}
	if c.HandshakeTimeout == 0 {
		c.HandshakeTimeout = DefaultHandshakeTimeout
	}
	if c.WriteTimeout == 0 {
		c.WriteTimeout = DefaultWriteTimeout
	}
	if c.HandshakeTimeout < 0 || c.WriteTimeout < 0 || c.ReadTimeout < 0 {
		return c, fmt.Errorf("a negative timeout")
	}
	return c, valid("this host's", c.Credentials.own.Leaf, time.Now())
}

// protocol is the name of the configured version in ALPN (RFC 7301).
func (c *Config) protocol() string { return fmt.Sprintf("%s%d", protocolPrefix, c.Version) }

// tls returns what both ends of a handshake share. Chains and names mean nothing here: the peer's certificate must be one
// of the trust file's, whichever of the two hosts dials.
func (c *Config) tls() *tls.Config {
	return &tls.Config{
		Certificates:                []tls.Certificate{c.Credentials.own},
		MinVersion:                  tls.VersionTLS13,
		MaxVersion:                  tls.VersionTLS13,
		NextProtos:                  []string{c.protocol()},
		ClientAuth:                  tls.RequireAnyClientCert,
		InsecureSkipVerify:          true, // VerifyConnection does it, and does more
		SessionTicketsDisabled:      true, // no resumption, so no early data either
		DynamicRecordSizingDisabled: true, // a record per flush, not one per segment
		VerifyConnection:            c.verify,
	}
}

// verify runs in each handshake, on both sides, before any message.
func (c *Config) verify(s tls.ConnectionState) error {
	if s.Version != tls.VersionTLS13 || s.DidResume {
		return fmt.Errorf("%w: TLS version %04x, resumed: %v", ErrNotTandem, s.Version, s.DidResume)
	}
	if s.NegotiatedProtocol != c.protocol() {
		return fmt.Errorf("%w: it names no protocol", ErrNotTandem)
	}
	return c.Credentials.check(s.PeerCertificates, time.Now())
}

// offered names what is wrong with the protocols that a dialer offers; nil if this end speaks one of them.
func (c *Config) offered(protocols []string) error {
	var versions []string
	for _, p := range protocols {
		if p == c.protocol() {
			return nil
		}
		if strings.HasPrefix(p, protocolPrefix) && len(p) <= len(protocolPrefix)+len("65535") {
			versions = append(versions, p)
		}
	}
	if len(versions) == 0 {
		return fmt.Errorf("%w: it asks for another protocol", ErrNotTandem)
	}
	return fmt.Errorf("%w (it speaks %q, this host %q)", ErrWrongVersion, versions, c.protocol())
}

func certificateOf(s tls.ConnectionState) *x509.Certificate { return s.PeerCertificates[0] }
