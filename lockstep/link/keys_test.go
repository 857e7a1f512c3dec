package link

import (
	"bytes"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pairKeys makes a set of keys for hosts a and b, valid around now.
func pairKeys(t testing.TB, now time.Time, validity time.Duration) (a, b *Credentials) {
	t.Helper()
	keys, err := GenerateKeys([]string{"a", "b"}, now, validity)
	if err != nil {
		t.Fatal(err)
	}
	var c [2]*Credentials
	for i, k := range keys {
		if c[i], err = ParseCredentials(k.Host, k.Trust); err != nil {
			t.Fatal(err)
		}
	}
	return c[0], c[1]
}

func TestGeneratedKeysTrustEachOtherAlone(t *testing.T) {
	now := time.Now()
	keys, err := GenerateKeys([]string{"a", "b", "c"}, now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	_, stranger := pairKeys(t, now, time.Hour)
	var all []*Credentials
	for _, k := range keys {
		c, err := ParseCredentials(k.Host, k.Trust)
		if err != nil {
			t.Fatal(err)
		}
		if c.Own().Name != k.Name || len(c.Trusted()) != 2 || len(c.Own().Fingerprint) != 64 {
			t.Errorf("%s: %+v trusts %+v", k.Name, c.Own(), c.Trusted())
		}
		all = append(all, c)
	}
	for i, c := range all {
		for j, peer := range all {
			want := error(nil)
			if i == j {
				want = ErrOwnKey
			}
			if err := c.check(shown(peer), now); !errors.Is(err, want) {
				t.Errorf("%d meets %d: %v, want %v", i, j, err, want)
			}
		}
		if err := c.check(shown(stranger), now); !errors.Is(err, ErrWrongKey) {
			t.Errorf("a stranger of the name b: %v", err)
		}
	}
	b := shown(all[1])
	for _, at := range []time.Time{now.Add(2 * time.Hour), now.Add(-48 * time.Hour)} {
		if err := all[0].check(b, at); !errors.Is(err, ErrExpiredKey) {
			t.Errorf("at %v: %v", at, err)
		}
	}
	if err := all[0].check(nil, now); !errors.Is(err, ErrNotTandem) {
		t.Errorf("no certificate: %v", err)
	}
}

func TestKeysThatAreNotMade(t *testing.T) {
	tests := []struct {
		names    []string
		validity time.Duration
		want     string
	}{
		{[]string{"a"}, time.Hour, "2 to 16"},
		{[]string{"a", "a"}, time.Hour, "twice"},
		{[]string{"a", "../b"}, time.Hour, "../b"},
		{[]string{"a", ""}, time.Hour, `""`},
		{[]string{"a", "b"}, 0, "never be valid"},
		{strings.Split(strings.Repeat("x,", 20), ","), time.Hour, "2 to 16"},
	}
	for _, tt := range tests {
		if _, err := GenerateKeys(tt.names, time.Now(), tt.validity); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q, %v: %v", tt.names, tt.validity, err)
		}
	}
}

func TestLoadCredentials(t *testing.T) {
	keys, err := GenerateKeys([]string{"a", "b"}, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	k := keys[0]
	tests := []struct {
		name        string
		host, trust []byte
		hostMode    os.FileMode
		trustMode   os.FileMode
		want        string // in the error; "" for none
	}{
		{"good", k.Host, k.Trust, 0o600, 0o644, ""},
		{"key readable by the group", k.Host, k.Trust, 0o640, 0o644, "chmod 600"},
		{"trust writable by others", k.Host, k.Trust, 0o600, 0o602, "open to others"},
		{"no key", k.Trust, k.Trust, 0o600, 0o600, HostFile},
		{"another's key", append(bytes.Clone(k.Trust), keys[0].Host...), k.Trust, 0o600, 0o600, HostFile},
		{"empty trust", k.Host, nil, 0o600, 0o600, "no certificate"},
		{"key in trust", k.Host, k.Host, 0o600, 0o600, TrustFile},
		{"too long", k.Host, bytes.Repeat([]byte("#"), maxKeyFileBytes+1), 0o600, 0o600, "more than"},
		{"too many", k.Host, bytes.Repeat(k.Trust, MaxHosts+1), 0o600, 0o600, "more than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			write := func(name string, content []byte, mode os.FileMode) {
				path := filepath.Join(dir, name)
				if err := os.WriteFile(path, content, 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(path, mode); err != nil { // past the umask
					t.Fatal(err)
				}
			}
			write(HostFile, tt.host, tt.hostMode)
			write(TrustFile, tt.trust, tt.trustMode)
			_, err := LoadCredentials(dir)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := LoadCredentials(t.TempDir()); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "tandem keygen") {
		t.Errorf("an empty folder: %v", err)
	}
}

// FuzzCredentials: no content of the two files makes more than an error.
func FuzzCredentials(f *testing.F) {
	keys, err := GenerateKeys([]string{"a", "b"}, time.Now(), time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(keys[0].Host, keys[0].Trust)
	f.Add(keys[0].Trust, keys[0].Host)
	f.Fuzz(func(t *testing.T, host, trust []byte) {
		c, err := ParseCredentials(host, trust)
		if err == nil && (c.own.Leaf == nil || len(c.trust) == 0 || len(c.trust) > MaxHosts) {
			t.Errorf("accepted: %+v", c)
		}
	})
}

// shown is what a host shows in a handshake.
func shown(c *Credentials) []*x509.Certificate { return []*x509.Certificate{c.own.Leaf} }
