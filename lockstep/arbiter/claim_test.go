package arbiter

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"time"
)

func TestClaimIsReadable(t *testing.T) {
	c, err := NewClaim("mail", 7, "hostb-5f0c2a", time.Date(2026, 1, 2, 16, 4, 5, 999, time.FixedZone("", 3600)))
	if err != nil {
		t.Fatal(err)
	}
	const want = "tandem-claim 1\nguest mail\nterm 7\nowner hostb-5f0c2a\nat 2026-01-02T15:04:05Z\ncrc32c 993eeb84\n"
	if got := string(c.Encode()); got != want {
		t.Errorf("got %q", got)
	}
	if back, err := DecodeClaim([]byte(want), "mail"); err != nil || back != c {
		t.Errorf("%+v, %v", back, err)
	}
	if _, err := DecodeClaim([]byte(want), "web"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("another guest's: %v", err)
	}
}

// FuzzClaim: what decodes was encoded so.
func FuzzClaim(f *testing.F) {
	c, _ := NewClaim("mail", 7, "a", time.Unix(0, 0))
	f.Add(c.Encode())
	f.Add([]byte("tandem-claim 1\nguest mail\nterm 07\nowner a\nat 2026-01-02T15:04:05+01:00\ncrc32c 00000000\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeClaim(b, "mail")
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("unnamed error %v", err)
			}
			return
		}
		if !bytes.Equal(c.Encode(), b) || len(b) > MaxClaimBytes || c.Term == 0 {
			t.Errorf("%q decodes to %+v", b, c)
		}
	})
}

func TestParseSpec(t *testing.T) {
	tests := []struct {
		text string
		want Spec // zero: refused
	}{
		{"file:/shared/tandem/", Spec{Kind: SpecFile, Folder: "/shared/tandem"}},
		{"etcd:http://a:2379,https://b:2379", Spec{Kind: SpecEtcd, Endpoints: []string{"http://a:2379", "https://b:2379"}}},
		{"unsafe-none", Spec{Kind: SpecUnsafe}},
		{"none", Spec{}}, {"", Spec{}}, {"file:", Spec{}}, {"file:relative", Spec{}}, {"etcd:", Spec{}}, {"etcd:http://", Spec{}},
		{"etcd:http://a:1,", Spec{}}, {"etcd:a:2379", Spec{}}, {"unsafe-none:x", Spec{}},
	}
	for _, tt := range tests {
		got, err := ParseSpec(tt.text)
		if !reflect.DeepEqual(got, tt.want) || (err != nil) != (tt.want.Kind == "") {
			t.Errorf("%q: %+v, %v", tt.text, got, err)
		}
	}
}
