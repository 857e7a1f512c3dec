package link

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// The files in a host's key folder.
const (
	// HostFile has the host's certificate and private key. Nobody but its owner may read it.
	HostFile = "host.pem"
	// TrustFile has the certificates of the other hosts: who is not in it is refused.
	TrustFile = "trust.pem"
)

const (
	// maxKeyFileBytes bounds what is read of a key file; a certificate of keygen's takes about 500 bytes.
	maxKeyFileBytes = 64 << 10
	// MaxHosts bounds how many hosts share a set of keys: a pair, and those that may take a lost one's place.
	MaxHosts = 16
	// clockSkew is how far behind the maker's clock a host's clock may be on the first day.
	clockSkew = 24 * time.Hour
)

var (
	hostName     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,62}$`)
	errNoKeyFile = errors.New("not a key file of tandem keygen")
)

// HostKeys is one host's folder: what to write into HostFile and TrustFile.
type HostKeys struct {
	Name        string
	Host, Trust []byte
}

// GenerateKeys makes keys for the named hosts, each of which trusts all the others and nobody else: an ed25519 key in a
// certificate that it has signed itself. The private halves exist nowhere but in the result.
func GenerateKeys(names []string, now time.Time, validity time.Duration) ([]HostKeys, error) {
	if len(names) < 2 || len(names) > MaxHosts {
		return nil, fmt.Errorf("keys for %d hosts: from 2 to %d can share a set", len(names), MaxHosts)
	}
	if validity <= 0 {
		return nil, fmt.Errorf("keys valid for %v would never be valid", validity)
	}
	seen := map[string]bool{}
	keys := make([]HostKeys, len(names))
	certificates := make([][]byte, len(names))
	for i, name := range names {
		if !hostName.MatchString(name) {
			return nil, fmt.Errorf("host name %q: use letters, digits, dots and dashes", name)
		}
		if seen[name] {
			return nil, fmt.Errorf("host name %q is given twice", name)
		}
		seen[name] = true
		certificate, private, err := generate(name, now, validity)
		if err != nil {
			return nil, fmt.Errorf("making a key for %s: %w", name, err)
		}
		certificates[i] = certificate
		keys[i] = HostKeys{Name: name, Host: append(append([]byte(nil), certificate...), private...)}
	}
	for i := range keys {
		for j, certificate := range certificates {
			if i != j {
				keys[i].Trust = append(keys[i].Trust, certificate...)
			}
		}
	}
	return keys, nil
}

// generate returns a certificate and its private key in PEM.
func generate(name string, now time.Time, validity time.Duration) (certificate, private []byte, err error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	template := x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name, Organization: []string{"Tandem"}},
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     now.Add(validity),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, public, key)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}

// Peer names a host by its key.
type Peer struct {
	Name        string    // as given to keygen
	Fingerprint string    // SHA-256 of the certificate, 64 hexadecimal digits
	Expires     time.Time // when its key does
}

func peerOf(c *x509.Certificate) Peer {
	sum := sha256.Sum256(c.Raw)
	return Peer{Name: c.Subject.CommonName, Fingerprint: hex.EncodeToString(sum[:]), Expires: c.NotAfter}
}

// Credentials are a host's own key and whom it trusts. They don't change.
type Credentials struct {
	own   tls.Certificate
	trust []*x509.Certificate
}

// LoadCredentials reads a host's key folder.
func LoadCredentials(folder string) (*Credentials, error) {
	host, err := readKeyFile(filepath.Join(folder, HostFile), true)
	if err != nil {
		return nil, err
	}
	trust, err := readKeyFile(filepath.Join(folder, TrustFile), false)
	if err != nil {
		return nil, err
	}
	c, err := ParseCredentials(host, trust)
	if err != nil {
		return nil, fmt.Errorf("keys in %s: %w", folder, err)
	}
	return c, nil
}

func readKeyFile(path string, secret bool) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the pair's keys (tandem keygen makes them): %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the pair's keys: %w", err)
	}
	// Others who can write the trust file can let themselves in; others who can read the key can be this host.
	forbidden := os.FileMode(0o022)
	if secret {
		forbidden = 0o077
	}
	if bad := info.Mode().Perm() & forbidden; bad != 0 {
		return nil, fmt.Errorf("%s has mode %04o, open to others: chmod 600 it, and make new keys if others had access", path, info.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading the pair's keys: %w", err)
	}
	if len(b) > maxKeyFileBytes {
		return nil, fmt.Errorf("%s: %w: it has more than %d bytes", path, errNoKeyFile, maxKeyFileBytes)
	}
	return b, nil
}

// ParseCredentials decodes the content of a HostFile and a TrustFile.
func ParseCredentials(host, trust []byte) (*Credentials, error) {
	own, err := tls.X509KeyPair(host, host)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", HostFile, errNoKeyFile, err)
	}
	if _, ok := own.PrivateKey.(ed25519.PrivateKey); !ok {
		return nil, fmt.Errorf("%s: %w: its key is not ed25519", HostFile, errNoKeyFile)
	}
	c := &Credentials{own: own}
	for rest := trust; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil || block.Type != "CERTIFICATE" || certificate.PublicKeyAlgorithm != x509.Ed25519 {
			return nil, fmt.Errorf("%s: %w: entry %d is no ed25519 certificate", TrustFile, errNoKeyFile, len(c.trust)+1)
		}
		if c.trust = append(c.trust, certificate); len(c.trust) > MaxHosts {
			return nil, fmt.Errorf("%s: %w: more than %d certificates", TrustFile, errNoKeyFile, MaxHosts)
		}
	}
	if len(c.trust) == 0 {
		return nil, fmt.Errorf("%s: %w: it has no certificate", TrustFile, errNoKeyFile)
	}
	return c, nil
}

// Own returns this host's name and when its key expires.
func (c *Credentials) Own() Peer { return peerOf(c.own.Leaf) }

// Trusted returns the hosts whose keys are accepted.
func (c *Credentials) Trusted() []Peer {
	peers := make([]Peer, len(c.trust))
	for i, t := range c.trust {
		peers[i] = peerOf(t)
	}
	return peers
}

// check accepts a peer's certificate if it is one of the trust file's, and in time. The whole certificate is compared, not
// its key alone: the owner of an expired key could sign it a longer life.
func (c *Credentials) check(shown []*x509.Certificate, now time.Time) error {
	if len(shown) != 1 {
		return fmt.Errorf("%w: it shows %d certificates", ErrNotTandem, len(shown))
	}
	if shown[0].Equal(c.own.Leaf) {
		return ErrOwnKey
	}
	for _, t := range c.trust {
		if t.Equal(shown[0]) {
			return valid("the peer's", t, now)
		}
	}
	return fmt.Errorf("%w (it calls itself %q)", ErrWrongKey, shown[0].Subject.CommonName)
}

// valid tells whether a certificate may be used now.
func valid(whose string, certificate *x509.Certificate, now time.Time) error {
	if now.Before(certificate.NotBefore) || now.After(certificate.NotAfter) {
		return fmt.Errorf("%w (%s, of %q, is valid from %s to %s)", ErrExpiredKey, whose, certificate.Subject.CommonName,
			certificate.NotBefore.Format(time.DateOnly), certificate.NotAfter.Format(time.DateOnly))
	}
	return nil
}
