package virtio

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"tandem/devices"
)

// Classes and commands of the control queue (virtio 1.2 §5.1.6.5).
const (
	controlRx          = 0
	controlPromiscuous = 0
	controlAllMulti    = 1

	controlMAC   = 1
	controlTable = 0
	controlAddr  = 1

	controlAnnounce = 3
	controlAck      = 0

	controlOK    = 0
	controlError = 1
)

const (
	// maxFilter is the number of addresses that a filter table holds; with more it lets everything of its kind through.
	maxFilter = 64
	// maxControl is the longest command that is read. Linux gives the table of as many addresses as it has; one that
	// does not fit is cut, and then it is too long for the filter as well.
	maxControl = 2 + 2*4 + 2*6*(maxFilter+1)
)

// filter says which frames are for the guest (§5.1.6.5.1, §5.1.6.5.2).
type filter struct {
	mac [6]byte
	// promiscuous is on until the driver turns it off.
	promiscuous, allMulti bool
	unicast, multicast    addressTable
}

// addressTable is a list of addresses; one that has overflowed matches everything.
type addressTable struct {
	list     [][6]byte
	overflow bool
}

func newFilter(mac [6]byte) filter { return filter{mac: mac, promiscuous: true} }

// passes reports whether a frame with destination dst is let through.
func (f *filter) passes(dst []byte) bool {
	switch {
	case f.promiscuous || bytes.Equal(dst, f.mac[:]):
		return true
	case dst[0]&1 == 0:
		return f.unicast.has(dst)
	case bytes.Equal(dst, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}):
		return true
	}
	return f.allMulti || f.multicast.has(dst)
}

func (t *addressTable) has(dst []byte) bool {
	if t.overflow {
		return true
	}
	for i := range t.list {
		if bytes.Equal(dst, t.list[i][:]) {
			return true
		}
	}
	return false
}

// Announce asks the guest to make its address known to the network again, as after a take-over (§5.1.6.5.4), and
// reports whether its driver can. It changes the machine: it has to be an input like any other.
func (n *Net) Announce() bool {
	if !n.Running() || n.driverFeatures&netAnnounce == 0 {
		return false
	}
	n.announce = true
	n.changed()
	return true
}

// command does what the control queue asks for.
func (n *Net) command() {
	for n.pop(netControl, &n.chain) {
		c := &n.chain
		if c.inLen < 2 || c.outLen < 1 {
			n.fail(fmt.Errorf("network control command with %d bytes to read and %d to write has no header or no status",
				c.inLen, c.outLen))
			return
		}
		p := n.buffer[:min(c.inLen, maxControl)]
		if err := c.read(n.mem, 0, p); err != nil {
			n.fail(fmt.Errorf("network control command: %w", err))
			return
		}
		answer := byte(controlError)
		if n.obey(p[0], p[1], p[2:], c.inLen > maxControl) {
			answer = controlOK
		}
		n.buffer[0] = answer
		if err := c.write(n.mem, 0, n.buffer[:1]); err != nil {
			n.fail(fmt.Errorf("network control command: %w", err))
			return
		}
		n.push(netControl, c.head, 1)
	}
	n.publish(netControl)
	n.listen(netControl, 0)
}

// obey does one command; cut says that p is not all of its data.
func (n *Net) obey(class, command byte, p []byte, cut bool) bool {
	has := func(feature uint64) bool { return n.driverFeatures&feature != 0 }
	switch {
	case class == controlRx && has(netCtrlRx) && len(p) == 1:
		switch command {
		case controlPromiscuous:
			n.filter.promiscuous = p[0] != 0
			return true
		case controlAllMulti:
			n.filter.allMulti = p[0] != 0
			return true
		}
	case class == controlMAC && command == controlTable && has(netCtrlRx):
		return n.setTables(p, cut)
	case class == controlMAC && command == controlAddr && has(netCtrlMAC) && len(p) == 6:
		n.filter.mac = [6]byte(p)
		return true
	case class == controlAnnounce && command == controlAck && has(netAnnounce) && len(p) == 0:
		n.announce = false
		return true
	}
	return false
}

// setTables takes both tables, unicast first, each a count and addresses.
func (n *Net) setTables(p []byte, cut bool) bool {
	if cut {
		n.filter.unicast, n.filter.multicast = addressTable{overflow: true}, addressTable{overflow: true}
		return true
	}
	unicast, p, ok := table(p)
	if !ok {
		return false
	}
	multicast, p, ok := table(p)
	if !ok || len(p) > 0 {
		return false
	}
	n.filter.unicast, n.filter.multicast = unicast, multicast
	return true
}

// table reads one table from the start of p and returns what follows it.
func table(p []byte) (addressTable, []byte, bool) {
	if len(p) < 4 {
		return addressTable{}, nil, false
	}
	count := uint64(binary.LittleEndian.Uint32(p))
	p = p[4:]
	if count*6 > uint64(len(p)) {
		return addressTable{}, nil, false
	}
	rest := p[count*6:]
	if count > maxFilter {
		return addressTable{overflow: true}, rest, true
	}
	var t addressTable
	for i := range count {
		t.list = append(t.list, [6]byte(p[6*i:]))
	}
	return t, rest, true
}

// netState is the part of a network device's state that is not its Core's.
type netState struct {
	MAC         [6]byte    `json:"mac"`
	Promiscuous bool       `json:"promiscuous"`
	AllMulti    bool       `json:"all_multicast"`
	Unicast     tableState `json:"unicast"`
	Multicast   tableState `json:"multicast"`
	Announce    bool       `json:"announce"`
}

type tableState struct {
	List     [][6]byte `json:"list"`
	Overflow bool      `json:"overflow"`
}

func (t addressTable) save() tableState {
	return tableState{append([][6]byte{}, t.list...), t.overflow}
}

func (t tableState) load() (addressTable, error) {
	if len(t.List) > maxFilter || t.Overflow && len(t.List) > 0 {
		return addressTable{}, fmt.Errorf("network: a table of %d addresses", len(t.List))
	}
	return addressTable{t.List, t.Overflow}, nil
}

func (n *Net) save() any {
	f := &n.filter
	return netState{f.mac, f.promiscuous, f.allMulti, f.unicast.save(), f.multicast.save(), n.announce}
}

func (n *Net) load(p []byte, _ uint64, _ []queueState) (func(), error) {
	var s netState
	if err := devices.DecodeState(p, &s); err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	unicast, err := s.Unicast.load()
	if err != nil {
		return nil, err
	}
	multicast, err := s.Multicast.load()
	if err != nil {
		return nil, err
	}
	return func() {
		n.filter = filter{s.MAC, s.Promiscuous, s.AllMulti, unicast, multicast}
		n.announce = s.Announce
		n.onOffloads(n.Offloads())
	}, nil
}
