package netdev

import (
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"tandem/vmm/netdev/usernet"
)

func TestParse(t *testing.T) {
	forward := func(s string, guest uint16) usernet.Forward {
		return usernet.Forward{Host: netip.MustParseAddrPort(s), Guest: guest}
	}
	for text, want := range map[string]Config{
		"none": {Kind: None, MAC: DefaultMAC(3), MTU: 1500},
		"user": {Kind: User, MAC: DefaultMAC(3), MTU: usernet.MaxMTU},
		"user,forward=127.0.0.1:2222:22,forward=80:8080,forward=[::1]:0:1,loopback,mtu=1400": {
			Kind: User, MAC: DefaultMAC(3), MTU: 1400, Loopback: true,
			Forwards: []usernet.Forward{forward("127.0.0.1:2222", 22), forward("127.0.0.1:80", 8080), forward("[::1]:0", 1)},
		},
		"tap,bridge=br0,ifname=guest0,mac=52:54:00:12:34:56": {
			Kind: Tap, MAC: [6]byte{0x52, 0x54, 0, 0x12, 0x34, 0x56}, MTU: 1500, Bridge: "br0", Interface: "guest0",
		},
		"hub,path=/run/a b.sock": {Kind: HubClient, MAC: DefaultMAC(3), MTU: 1500, Path: "/run/a b.sock"},
	} {
		got, err := Parse(text, 3)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "no kind",
		"slirp":                           "no kind",
		"User":                            "no kind",
		"user,mac=1":                      "not an address",
		"user,mac=01:00:5e:00:00:01":      "multicast",
		"user,mac=00:00:00:00:00:00":      "no machine",
		"user,mac=02:00:00:00:00:00:00:1": "not an address",
		"user,mtu=67":                     "from 68",
		"user,mtu=70000":                  "from 68",
		"user,mtu=65530":                  "at most",
		"tap,bridge=b,mtu=65530":          "at most",
		"user,mtu=big":                    "from 68",
		"user,mtu":                        "not understood",
		"user,mtu=":                       "not understood",
		"user,":                           "not understood",
		"user,loopback=yes":               "not understood",
		"user,forward=22":                 "not understood",
		"user,forward=1:0":                "not understood",
		"user,forward=host:1:2":           "not understood",
		"user,forward=1:2:3":              "not understood",
		"user,forward=1:99999":            "not understood",
		"user,forward=1:2,forward=1:3":    "twice",
		"user,mtu=1500,mtu=1500":          "twice",
		"user,bridge=br0":                 "is for network tap",
		"tap":                             "name the bridge",
		"tap,bridge=a/b":                  "no name of an interface",
		"tap,bridge=abcdefghijklmnop":     "no name of an interface",
		"tap,bridge=br0,ifname=%d":        "no name of an interface",
		"hub":                             "name the hub",
		"none,speed=1":                    "not known",
	} {
		_, err := Parse(text, 0)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: want an error with %q, got %v", text, want, err)
		}
	}
}

func TestCheckAll(t *testing.T) {
	parse := func(texts ...string) []Config {
		var all []Config
		for i, text := range texts {
			c, err := Parse(text, i)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, c)
		}
		return all
	}
	for want, all := range map[string][]Config{
		"":              parse("none", "user,forward=0:1,forward=0:2", "user,forward=0:1", "none"),
		"same MAC":      parse("none,mac=52:54:00:74:00:01", "none"),
		"both forward":  parse("user,forward=2222:22", "user,forward=127.0.0.1:2222:23"),
		"networks 0 an": parse("none,mac=02:00:00:00:00:01", "none", "none,mac=02:00:00:00:00:01"),
	} {
		err := CheckAll(all)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestDefaultMAC(t *testing.T) {
	seen := map[[6]byte]bool{}
	for i := range 1000 {
		mac := DefaultMAC(i)
		if mac[0]&3 != 2 || seen[mac] {
			t.Fatalf("device %d has %v", i, net.HardwareAddr(mac[:]))
		}
		seen[mac] = true
	}
}

func FuzzParse(f *testing.F) {
	f.Add("user,forward=127.0.0.1:2222:22,mac=52:54:00:12:34:56,mtu=9000,loopback")
	f.Add("tap,bridge=br0,ifname=a")
	f.Add("hub,path=/x")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse(text, 0)
		if err != nil {
			if strings.Contains(text, "\n") != strings.Contains(err.Error(), "\n") && !strings.Contains(text, "\n") {
				t.Errorf("the error is not one line: %q", err)
			}
			return
		}
		if c.MAC[0]&1 != 0 || c.MTU < minMTU || c.MTU > maxMTU || c.Kind == Tap && c.Bridge == "" || len(c.Forwards) > maxForwards {
			t.Errorf("%q gives %+v", text, c)
		}
		for _, f := range c.Forwards {
			if again, err := ParseForward(f.String()); err != nil || again != f {
				t.Errorf("%v does not read back: %v, %v", f, again, err)
			}
		}
	})
}
