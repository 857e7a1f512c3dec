package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
)

// Why a peer is refused, or refuses.
var (
	// ErrWrongKey says that the peer's key is none of the pair's. It may be a stale one, from before the last keygen.
	ErrWrongKey = errors.New("the peer's key is not in the trust file: copy both hosts' folders from the same run of tandem keygen")
	// ErrOwnKey says that the peer shows this host's own key.
	ErrOwnKey = errors.New("the peer has this host's own key: each host needs its own folder from tandem keygen")
	// ErrExpiredKey says that a key of the pair is past its time, or before it.
	ErrExpiredKey = errors.New("the key is not valid at this time: make new keys with tandem keygen, or set the clock")
	// ErrRefusedByPeer says that the peer does not take this host's key.
	ErrRefusedByPeer = errors.New("the peer refuses this host's key: it has another trust file, or finds the key expired; its log says which")
	// ErrWrongVersion says that the peer is a Tandem of another protocol version.
	ErrWrongVersion = errors.New("the peer speaks another version of the protocol: run the same release of tandem on both hosts")
	// ErrNotTandem says that what is at the other end is no Tandem.
	ErrNotTandem = errors.New("not a Tandem peer")
	// ErrHandshakeTimeout says that the peer did not prove itself in time.
	ErrHandshakeTimeout = errors.New("the handshake was not complete in time")
	// ErrHandshakeBytes says that a stranger sent more than a handshake has.
	ErrHandshakeBytes = errors.New("more bytes than a handshake has")
	// ErrEvicted says that a newer connection took this one's place before it had proved itself.
	ErrEvicted = errors.New("gave way to a newer connection: too many were waiting to prove themselves")
	// ErrClosed says that this end has closed the connection or the listener.
	ErrClosed = errors.New("the link is closed")
)

// Alerts that a peer refuses with (RFC 8446 §6.2).
const (
	alertBadCertificate        tls.AlertError = 42
	alertProtocolVersion       tls.AlertError = 70
	alertNoApplicationProtocol tls.AlertError = 120
)

// named puts a name of this package's on what crypto/tls and net report of a handshake.
func named(err error) error {
	if cause := nameOf(err); cause != nil {
		return fmt.Errorf("%w (%w)", cause, err)
	}
	return err
}

func nameOf(err error) error {
	for _, own := range []error{ErrWrongKey, ErrOwnKey, ErrExpiredKey, ErrWrongVersion, ErrNotTandem, ErrHandshakeBytes, ErrEvicted} {
		if errors.Is(err, own) {
			return nil // it has its name
		}
	}
	var remote *net.OpError
	if errors.As(err, &remote) && remote.Op == "remote error" {
		// The alert's type is not exported; its text is that of the exported one.
		switch remote.Err.Error() {
		case alertBadCertificate.Error():
			return ErrRefusedByPeer
		case alertNoApplicationProtocol.Error():
			return ErrWrongVersion
		case alertProtocolVersion.Error():
			return ErrNotTandem
		}
	}
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &record):
		return ErrNotTandem
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return ErrHandshakeTimeout
	}
	return nil
}
