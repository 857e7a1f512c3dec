package netdev

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"tandem/vmm/netdev/usernet"
)

// Kind is a kind of back end, by its name on the command line.
type Kind string

const (
	None      Kind = "none"
	User      Kind = "user"
	Tap       Kind = "tap"
	HubClient Kind = "hub"
)

// Bounds of the MTU, in bytes (virtio 1.2 §5.1.4.1, and the longest IP packet).
const (
	minMTU     = 68
	maxMTU     = 65535
	defaultMTU = 1500
)

// mtuOf has the largest MTU of kinds that have one of their own. The kernel's tap counts the Ethernet header.
var mtuOf = map[Kind]int{User: usernet.MaxMTU, Tap: maxMTU - 14}

// maxForwards bounds the forwarded ports of a network.
const maxForwards = 256

// Config is one network device's.
type Config struct {
	Kind Kind
	MAC  [6]byte
	MTU  int // bytes

	Forwards []usernet.Forward // User
	Loopback bool              // User: the gateway's ports are those of the host's loopback

	Bridge    string // Tap
	Interface string // Tap: the name of the interface to make; "" lets the kernel choose

	Path string // HubClient: the socket
}

// DefaultMAC returns the address of the index-th network device that names none: the same on every host, and locally
// administered.
func DefaultMAC(index int) [6]byte {
	return [6]byte{0x52, 0x54, 0x00, 0x74, byte(index >> 8), byte(index)}
}

// Parse reads what a --net flag says, for the index-th network device. An error is one line for the user.
func Parse(text string, index int) (Config, error) {
	fields := strings.Split(text, ",")
	c := Config{Kind: Kind(fields[0]), MAC: DefaultMAC(index)}
	switch c.Kind {
	case None, User, Tap, HubClient:
	default:
		return Config{}, fmt.Errorf("%q is no kind of network: use user, tap, hub or none", fields[0])
	}
	seen := map[string]bool{}
	for _, f := range fields[1:] {
		key, value, _ := strings.Cut(f, "=")
		if seen[key] && key != "forward" {
			return Config{}, fmt.Errorf("network %s: %s is given twice", c.Kind, key)
		}
		seen[key] = true
		if err := c.set(key, value, strings.Contains(f, "=")); err != nil {
			return Config{}, fmt.Errorf("network %s: %w", c.Kind, err)
		}
	}
	if err := c.complete(); err != nil {
		return Config{}, fmt.Errorf("network %s: %w", c.Kind, err)
	}
	return c, nil
}

// keys says which kinds take which keys; those not named here are for all.
var keys = map[string]Kind{"forward": User, "loopback": User, "bridge": Tap, "ifname": Tap, "path": HubClient}

func (c *Config) set(key, value string, hasValue bool) (err error) {
	if kind, ok := keys[key]; ok && kind != c.Kind {
		return fmt.Errorf("%s is for network %s", key, kind)
	}
	if hasValue == (key == "loopback") || hasValue && value == "" {
		return fmt.Errorf("%q is not understood: give KEY=VALUE, or loopback alone", join(key, value, hasValue))
	}
	switch key {
	case "mac":
		c.MAC, err = parseMAC(value)
	case "mtu":
		c.MTU, err = parseMTU(value)
	case "forward":
		var f usernet.Forward
		if f, err = ParseForward(value); err == nil {
			err = c.AddForward(f)
		}
	case "loopback":
		c.Loopback = true
	case "bridge":
		c.Bridge, err = parseInterface(value)
	case "ifname":
		c.Interface, err = parseInterface(value)
	case "path":
		c.Path = value
	default:
		return fmt.Errorf("%q is not known: the keys are mac, mtu, and forward, loopback (user), bridge, ifname (tap), path (hub)", key)
	}
	return err
}

func join(key, value string, hasValue bool) string {
	if hasValue {
		return key + "=" + value
	}
	return key
}

// complete checks what must be there and fills in what may be left out.
func (c *Config) complete() error {
	switch {
	case c.Kind == Tap && c.Bridge == "":
		return errors.New("name the bridge to join: tap,bridge=br0")
	case c.Kind == HubClient && c.Path == "":
		return errors.New("name the hub's socket: hub,path=/run/hub.sock")
	}
	if c.MTU == 0 {
		c.MTU = defaultMTU
		if c.Kind == User {
			// Everything that the guest sends ends in this process, where a long packet costs little more than a short one.
			c.MTU = usernet.MaxMTU
		}
	}
	if most, ok := mtuOf[c.Kind]; ok && c.MTU > most {
		return fmt.Errorf("an MTU of %d is too large for this network: give %d at most", c.MTU, most)
	}
	return nil
}

func parseMAC(s string) ([6]byte, error) {
	a, err := net.ParseMAC(s)
	if err != nil || len(a) != 6 {
		return [6]byte{}, fmt.Errorf("mac %q is not an address: give six bytes, like 52:54:00:12:34:56", s)
	}
	mac := [6]byte(a)
	switch {
	case mac[0]&1 != 0:
		return mac, fmt.Errorf("mac %s is a multicast address: the first byte must be even", a)
	case mac == [6]byte{}:
		return mac, errors.New("mac 00:00:00:00:00:00 is no machine's address")
	}
	return mac, nil
}

func parseMTU(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < minMTU || n > maxMTU {
		return 0, fmt.Errorf("mtu %q is not possible: give a number from %d to %d", s, minMTU, maxMTU)
	}
	return n, nil
}

// parseInterface checks a name as the kernel does (dev_valid_name): it is 15 bytes at most.
func parseInterface(s string) (string, error) {
	if len(s) > 15 || s == "." || s == ".." || strings.ContainsAny(s, "/:% \t\n") {
		return "", fmt.Errorf("%q is no name of an interface: give 15 characters at most, without spaces, slashes or colons", s)
	}
	return s, nil
}

// ParseForward reads [ADDR:]PORT:GUESTPORT; ADDR is 127.0.0.1 if left out, and an IPv6 address stands in brackets. The
// host's port may be 0, for one that is free.
func ParseForward(s string) (usernet.Forward, error) {
	bad := fmt.Errorf("forward %q is not understood: give ADDRESS:PORT:GUESTPORT, like 127.0.0.1:2222:22", s)
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return usernet.Forward{}, bad
	}
	host, guest := s[:i], s[i+1:]
	if !strings.Contains(host, ":") {
		host = "127.0.0.1:" + host
	}
	a, err := netip.ParseAddrPort(host)
	if err != nil {
		return usernet.Forward{}, bad
	}
	port, err := strconv.ParseUint(guest, 10, 16)
	if err != nil || port == 0 {
		return usernet.Forward{}, bad
	}
	return usernet.Forward{Host: a, Guest: uint16(port)}, nil
}

// AddForward adds a port that leads to the guest.
func (c *Config) AddForward(f usernet.Forward) error {
	if len(c.Forwards) >= maxForwards {
		return fmt.Errorf("more than %d forwards", maxForwards)
	}
	for _, have := range c.Forwards {
		if have.Host == f.Host && f.Host.Port() != 0 {
			return fmt.Errorf("%v is forwarded twice", f.Host)
		}
	}
	c.Forwards = append(c.Forwards, f)
	return nil
}

// CheckAll finds what is wrong between the network devices of one machine.
func CheckAll(all []Config) error {
	byMAC := map[[6]byte]int{}
	byPort := map[netip.AddrPort]int{}
	for i, c := range all {
		if j, ok := byMAC[c.MAC]; ok {
			return fmt.Errorf("networks %d and %d have the same MAC address %v: give one of them another (mac=...)", j, i, net.HardwareAddr(c.MAC[:]))
		}
		byMAC[c.MAC] = i
		for _, f := range c.Forwards {
			if j, ok := byPort[f.Host]; ok && f.Host.Port() != 0 {
				return fmt.Errorf("networks %d and %d both forward %v", j, i, f.Host)
			}
			byPort[f.Host] = i
		}
	}
	return nil
}
