package netdev

import (
	"log/slog"

	"tandem/devices/virtio"
	"tandem/vmm/netdev/usernet"
)

// Backend is the host's side of a network device.
type Backend interface {
	// Output takes a packet from the guest (devices.Sink). It never waits.
	Output(packet []byte)
	// Offers says what the device may offer its guest. It never changes.
	Offers() Offers
	// SetOffloads says what the guest's driver can take in a packet. It may be called by the machine at any time.
	SetOffloads(virtio.Offloads)
	// Close ends the back end and removes what it made on the host. The caller makes post fail first.
	Close() error
}

// Offers are the offloads of a back end, in both directions (virtio.NetConfig has the same fields).
type Offers struct {
	// Checksum: packets whose TCP or UDP checksum is not filled in are taken.
	Checksum bool
	// TSO: TCP segments longer than the MTU are taken.
	TSO bool
}

// Post hands a packet to the machine. It may wait, and fails when the machine has ended.
type Post func(packet []byte) error

// Open opens a back end. An error is one line for the user; nothing is left behind then.
func Open(c Config, post Post, log *slog.Logger) (Backend, error) {
	switch c.Kind {
	case User:
		n, err := usernet.New(usernet.Config{MAC: c.MAC, MTU: c.MTU, Forwards: c.Forwards, Loopback: c.Loopback}, post)
		if err != nil {
			return nil, err
		}
		return user{n}, nil
	case Tap:
		return openTap(c, post, log)
	case HubClient:
		return openHub(c, post, log)
	}
	return none{}, nil
}

// none is a network with nothing in it.
type none struct{}

func (none) Output([]byte)               {}
func (none) Offers() Offers              { return Offers{} }
func (none) SetOffloads(virtio.Offloads) {}
func (none) Close() error                { return nil }

// user is a user-mode network. It takes packets of any length without checksums, since they end in its own stack, and
// sends such ones if the guest's driver can take them.
type user struct{ *usernet.Network }

func (user) Offers() Offers                  { return Offers{Checksum: true, TSO: true} }
func (u user) SetOffloads(o virtio.Offloads) { u.SetSegments(o.Checksum && o.TSO4) }
