package lab

import (
	"fmt"
	"net/netip"

	"tandem/cmd/internal/lab/outside"
)

// Client makes a host of Go code on a network, from 0, with an address in it: for clients that outlive every emulated
// host. Hosts have 10.77.network.place/24 with places from 1; any other address of that network is free. Its port on
// the switch has the address as its name. It ends with the lab, if it isn't closed before.
func (l *Lab) Client(network int, addr netip.Prefix) (*outside.Client, error) {
	if network < 0 || network >= len(l.switches) {
		return nil, fmt.Errorf("there is no network %d: the lab has %d, from 0", network, len(l.switches))
	}
	port, err := l.switches[network].Attach(addr.Addr().String())
	if err != nil {
		return nil, err
	}
	return outside.New(port, addr)
}
