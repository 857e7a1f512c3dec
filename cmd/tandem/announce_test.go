package main

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
)

// TestAnnouncements compares frames byte for byte.
func TestAnnouncements(t *testing.T) {
	const (
		padding = "000000000000000000000000000000000000"
		arp     = "ffffffffffff" + "525400740001" + "0806" + "0001080006040001" + "525400740001" + "0a000005" + "000000000000" + "0a000005" + padding
		rarp    = "ffffffffffff" + "525400740001" + "8035" + "0001080006040003" + "525400740001" + "00000000" + "525400740001" + "00000000" + padding
		naHead  = "333300000001" + "525400740001" + "86dd" + "60000000" + "0020" + "3a" + "ff" +
			"fe80000000000000000000000000000a" + "ff020000000000000000000000000001"
		naTail = "20000000" + "fe80000000000000000000000000000a" + "0201" + "525400740001"
	)
	const na = naHead + "8800" + "06c1" + naTail // the checksum in the middle
	mac := [6]byte{0x52, 0x54, 0x00, 0x74, 0x00, 0x01}
	tests := []struct {
		name      string
		addresses string // split at spaces
		frames    []string
	}{
		{"none", "", []string{rarp}},
		{"nothing that can be announced", "0.0.0.0 255.255.255.255 224.0.0.1 127.0.0.1 :: ::1 ff02::1", []string{rarp}},
		{"IPv4", "10.0.0.5", []string{arp}},
		{"IPv4 in IPv6", "::ffff:10.0.0.5", []string{arp}},
		{"IPv6", "fe80::a", []string{na}},
		{"with a zone", "fe80::a%eth0", []string{na}},
		{"both", "10.0.0.5 fe80::a", []string{arp, na}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var addresses []netip.Addr
			for _, a := range strings.Fields(tt.addresses) {
				addresses = append(addresses, netip.MustParseAddr(a))
			}
			frames := announcements(mac, addresses)
			if len(frames) != len(tt.frames) {
				t.Fatalf("%d frames, want %d", len(frames), len(tt.frames))
			}
			for i, f := range frames {
				if got := hex.EncodeToString(f); got != tt.frames[i] {
					t.Errorf("frame %d is\n%s, want\n%s", i, got, tt.frames[i])
				}
			}
		})
	}
}

// TestAnnouncementsAreBounded gives more addresses than are announced.
func TestAnnouncementsAreBounded(t *testing.T) {
	a := netip.MustParseAddr("10.0.0.1")
	var all []netip.Addr
	for range 2 * maxAnnounced {
		all = append(all, a)
		a = a.Next()
	}
	if n := len(announcements([6]byte{}, all)); n != maxAnnounced {
		t.Errorf("%d frames, want %d", n, maxAnnounced)
	}
}
