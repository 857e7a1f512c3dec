package virtio

import (
	"encoding/binary"
	"fmt"

	"tandem/devices"
)

// Feature bits of a network device (virtio 1.2 §5.1.3).
const (
	netCsum      = 1 << 0
	netGuestCsum = 1 << 1
	netMTU       = 1 << 3
	netMAC       = 1 << 5
	netGuestTSO4 = 1 << 7
	netGuestTSO6 = 1 << 8
	netHostTSO4  = 1 << 11
	netHostTSO6  = 1 << 12
	netMrgRxbuf  = 1 << 15
	netStatus    = 1 << 16
	netCtrlVQ    = 1 << 17
	netCtrlRx    = 1 << 18
	netAnnounce  = 1 << 21
	netCtrlMAC   = 1 << 23
)

// A network device's queues (§5.1.2), one pair only.
const (
	netReceive  = 0
	netTransmit = 1
	netControl  = 2

	netQueueSize        = 256
	netControlQueueSize = 16
)

// Bits of the status field in the configuration space (§5.1.4).
const (
	netLinkUp       = 1
	netAnnounceFlag = 2
)

// struct virtio_net_hdr and what its fields say (§5.1.6).
const (
	// NetHeader is the size of the header before each frame.
	NetHeader = 12

	hdrFlags      = 0
	hdrGSOType    = 1
	hdrHdrLen     = 2
	hdrGSOSize    = 4
	hdrCsumStart  = 6
	hdrCsumOffset = 8
	hdrNumBuffers = 10

	hdrNeedsCsum = 1
	hdrDataValid = 2

	gsoNone  = 0
	gsoTCPv4 = 1
	gsoTCPv6 = 4
)

// Bounds of frames, in bytes, without the header.
const (
	minFrame = 14
	// MaxFrame is the longest frame: an IP packet of 64 KiB behind an Ethernet header with a VLAN tag.
	MaxFrame = 18 + 65535
	// frameOverhead is what a frame may have beyond its MTU.
	frameOverhead = 18
)

const (
	minMTU = 68 // §5.1.4.1
	maxMTU = 65535

	// lowReceive is the number of receive buffers below which the driver is asked to notify when it adds some. Two frames
	// of the largest size need as many pages.
	lowReceive = 34
)

// NetConfig is what a network device shows to its guest.
type NetConfig struct {
	MAC [6]byte
	// MTU in bytes; 0 means 1500.
	MTU uint16
	// Checksum offers checksum offload in both directions: frames whose TCP or UDP checksum is not filled in, and says
	// so, can be sent and received.
	Checksum bool
	// TSO offers TCP segmentation offload in both directions. It needs Checksum.
	TSO bool
}

// Offloads says what a driver can receive: a back end may put into a frame's header only what is true here.
type Offloads struct {
	Checksum, TSO4, TSO6 bool
}

// Net is a network device (§5.1). The format of frames is in the package comment.
type Net struct {
	Core
	config NetConfig
	out    devices.Sink
	// onOffloads is told when the driver's choice changes.
	onOffloads func(Offloads)

	filter filter
	// announce says that the guest has been asked to announce itself and has not answered (§5.1.6.5.4).
	announce bool

	chain, first chain
	// header is a received frame's, as the guest gets it.
	header [NetHeader]byte
	// taken has the chains that a frame is spread over, and how much of it is in each.
	taken [netQueueSize]struct {
		head uint16
		n    uint32
	}
	// buffer is where a control command is read to.
	buffer [maxControl]byte
}

// NewNet returns a network device whose guest sends to out.
func NewNet(mem devices.Memory, config NetConfig, out devices.Sink) (*Net, error) {
	if config.MTU == 0 {
		config.MTU = 1500
	}
	switch {
	case config.MAC[0]&1 != 0 || config.MAC == [6]byte{}:
		return nil, fmt.Errorf("virtio: %x is no address of a single network device", config.MAC)
	case config.MTU < minMTU:
		return nil, fmt.Errorf("virtio: an MTU of %d is too small, the least is %d", config.MTU, minMTU)
	case config.TSO && !config.Checksum:
		return nil, fmt.Errorf("virtio: segmentation offload needs checksum offload")
	}
	n := &Net{config: config, out: out, onOffloads: func(Offloads) {}}
	n.init(n, mem, netQueueSize, netQueueSize, netControlQueueSize)
	n.filter = newFilter(config.MAC)
	return n, nil
}

// OnOffloads makes f be called, on the machine's goroutine, whenever what the driver can receive may have changed.
func (n *Net) OnOffloads(f func(Offloads)) { n.onOffloads = f }

// Offloads returns what the driver can receive now.
func (n *Net) Offloads() Offloads {
	if !n.Running() {
		return Offloads{}
	}
	has := func(feature uint64) bool { return n.driverFeatures&feature != 0 }
	return Offloads{
		Checksum: has(netGuestCsum),
		TSO4:     has(netGuestCsum) && has(netGuestTSO4),
		TSO6:     has(netGuestCsum) && has(netGuestTSO6),
	}
}

func (n *Net) id() uint16 { return idNet }

func (n *Net) features() uint64 {
	f := uint64(netMTU | netMAC | netMrgRxbuf | netStatus | netCtrlVQ | netCtrlRx | netCtrlMAC | netAnnounce | featInOrder)
	if n.config.Checksum {
		f |= netCsum | netGuestCsum
	}
	if n.config.TSO {
		f |= netHostTSO4 | netHostTSO6 | netGuestTSO4 | netGuestTSO6
	}
	return f
}

// configuration lays out struct virtio_net_config (§5.1.4).
func (n *Net) configuration(p *[configSpace]byte) int {
	copy(p[0:], n.filter.mac[:])
	status := uint16(netLinkUp)
	if n.announce {
		status |= netAnnounceFlag
	}
	binary.LittleEndian.PutUint16(p[6:], status)
	binary.LittleEndian.PutUint16(p[8:], 1) // max_virtqueue_pairs
	binary.LittleEndian.PutUint16(p[10:], n.config.MTU)
	return 12
}

func (n *Net) configure(uint64, []byte) {}

func (n *Net) start(uint64) { n.onOffloads(n.Offloads()) }

func (n *Net) reset() {
	n.filter = newFilter(n.config.MAC)
	n.announce = false
	n.onOffloads(Offloads{})
}

func (n *Net) notify(q int) {
	switch q {
	case netReceive:
		n.rearm(netReceive, lowReceive)
	case netTransmit:
		n.transmit()
	case netControl:
		n.command()
	}
}

// transmit sends what the driver has made available.
func (n *Net) transmit() {
	for n.pop(netTransmit, &n.chain) {
		if n.chain.inLen < NetHeader {
			n.fail(fmt.Errorf("packet of %d bytes has no header", n.chain.inLen))
			return
		}
		// A frame that no network carries is lost, as on a wire.
		if size := n.chain.inLen - NetHeader; size >= minFrame && size <= MaxFrame {
			p := make([]byte, n.chain.inLen)
			if err := n.chain.read(n.mem, 0, p); err != nil {
				n.fail(fmt.Errorf("packet: %w", err))
				return
			}
			if n.sendable(p) {
				n.out.Output(p)
			}
		}
		n.push(netTransmit, n.chain.head, 0)
	}
	n.publish(netTransmit)
	n.listen(netTransmit, 0)
}

// sendable makes the header of a packet from the guest mean only what was agreed on, and reports false if it asks for
// something that was not, or that the frame does not hold (§5.1.6.2). Back ends may rely on it.
func (n *Net) sendable(p []byte) bool {
	le := binary.LittleEndian
	h, size := p[:NetHeader], len(p)-NetHeader
	h[hdrFlags] &= hdrNeedsCsum
	le.PutUint16(h[hdrNumBuffers:], 0)
	if h[hdrFlags] == 0 {
		clear(h[hdrCsumStart:hdrNumBuffers])
	} else {
		end := int(le.Uint16(h[hdrCsumStart:])) + int(le.Uint16(h[hdrCsumOffset:])) + 2
		if n.driverFeatures&netCsum == 0 || end > size {
			return false
		}
	}
	var need uint64
	switch h[hdrGSOType] {
	case gsoNone:
		clear(h[hdrHdrLen:hdrCsumStart])
		return size <= int(n.config.MTU)+frameOverhead
	case gsoTCPv4:
		need = netHostTSO4
	case gsoTCPv6:
		need = netHostTSO6
	default:
		return false
	}
	// The header's length is only a hint (§5.1.6.2.2).
	le.PutUint16(h[hdrHdrLen:], min(le.Uint16(h[hdrHdrLen:]), uint16(min(size, 0xffff))))
	return n.driverFeatures&need != 0 && h[hdrFlags] != 0 && le.Uint16(h[hdrGSOSize:]) != 0
}

// Wants reports whether a received packet, header and all, is for this guest and of a kind that its driver can take.
// It changes nothing. The machine asks it before it makes an input of the packet, and so keeps others out of the log.
func (n *Net) Wants(packet []byte) bool {
	if len(packet) < NetHeader+minFrame || len(packet) > NetHeader+MaxFrame || !n.usable(netReceive) {
		return false
	}
	return n.understands(packet[:NetHeader]) && n.filter.passes(packet[NetHeader:NetHeader+6])
}

// understands reports whether the driver can take a frame with header h.
func (n *Net) understands(h []byte) bool {
	o := n.Offloads()
	switch h[hdrGSOType] {
	case gsoNone:
		return true
	case gsoTCPv4:
		return o.TSO4
	case gsoTCPv6:
		return o.TSO6
	}
	return false
}

// CanReceive reports whether [Net.Receive] would take a packet of the given length, header included, now. It changes
// nothing. When the guest has broken its queue it says yes, so that Receive gets to find that out.
func (n *Net) CanReceive(length int) bool {
	if !n.usable(netReceive) {
		return false
	}
	q := &n.queues[netReceive]
	left, err := q.available()
	room := uint64(0)
	for i := uint16(0); err == nil && i < left; i++ {
		if err = q.peek(i, &n.chain); err != nil {
			break
		}
		room += n.chain.outLen
		if room >= uint64(length) || n.chain.outLen == 0 {
			return true
		}
		if n.driverFeatures&netMrgRxbuf == 0 {
			// The frame does not fit into the one buffer that it must fit into: Receive drops it.
			return true
		}
	}
	return err != nil
}

// Receive gives a packet to the guest: the payload of an input of kind KindFrame. It returns false if the packet was
// dropped: there was no room, its form is impossible or the driver can't take its kind. The machine asks Wants and
// CanReceive first.
func (n *Net) Receive(packet []byte) bool {
	if len(packet) < NetHeader+minFrame || len(packet) > NetHeader+MaxFrame ||
		!n.CanReceive(len(packet)) || !n.understands(packet[:NetHeader]) {
		return false
	}
	copy(n.header[:], packet)
	frame := packet[NetHeader:]
	if n.driverFeatures&netGuestCsum == 0 {
		if n.header[hdrFlags]&hdrNeedsCsum != 0 {
			var ok bool
			if frame, ok = withChecksum(n.header[:], frame); !ok {
				return false
			}
		}
		n.header[hdrFlags] = 0
	}
	ok := n.spread(frame)
	n.publish(netReceive)
	n.rearm(netReceive, lowReceive)
	return ok
}

// spread writes header and frame over as many buffers as it takes: one, unless the driver merges them (§5.1.6.4).
// CanReceive has found them to be there.
func (n *Net) spread(frame []byte) bool {
	rest, ok := n.fill(0, &n.first, NetHeader, frame)
	chains := 1
	for ; ok && len(rest) > 0; chains++ {
		rest, ok = n.fill(chains, &n.chain, 0, rest)
	}
	if !ok {
		return false
	}
	binary.LittleEndian.PutUint16(n.header[hdrNumBuffers:], uint16(chains))
	if err := n.first.write(n.mem, 0, n.header[:]); err != nil {
		n.fail(fmt.Errorf("receive buffer: %w", err))
		return false
	}
	for _, t := range n.taken[:chains] {
		n.push(netReceive, t.head, t.n)
	}
	return true
}

// fill takes the next buffer, the frame's i-th, into c, writes what fits of p to offset of it, and returns the rest.
func (n *Net) fill(i int, c *chain, offset uint64, p []byte) ([]byte, bool) {
	if !n.pop(netReceive, c) {
		return nil, false
	}
	if c.outLen < max(offset, 1) {
		n.fail(fmt.Errorf("receive buffer of %d bytes is too short", c.outLen))
		return nil, false
	}
	part := min(c.outLen-offset, uint64(len(p)))
	if part < uint64(len(p)) && n.driverFeatures&netMrgRxbuf == 0 {
		// The driver gets its buffer back with nothing in it: the frame is lost.
		n.push(netReceive, c.head, 0)
		return nil, false
	}
	if err := c.write(n.mem, offset, p[:part]); err != nil {
		n.fail(fmt.Errorf("receive buffer: %w", err))
		return nil, false
	}
	n.taken[i].head, n.taken[i].n = c.head, uint32(offset+part)
	return p[part:], true
}

// withChecksum returns frame with the checksum that header h says is missing, for a driver that cannot be told of it
// (§5.1.6.4.1), and false if it does not lie inside the frame. The sum of the pseudo-header is in its place already.
func withChecksum(h, frame []byte) ([]byte, bool) {
	start := int(binary.LittleEndian.Uint16(h[hdrCsumStart:]))
	at := start + int(binary.LittleEndian.Uint16(h[hdrCsumOffset:]))
	if start > len(frame) || at+2 > len(frame) {
		return nil, false
	}
	frame = append([]byte(nil), frame...)
	sum := uint32(0) // 64 KiB of 16-bit words cannot overflow it
	for i := start; i < len(frame); i += 2 {
		sum += uint32(frame[i]) << 8
		if i+1 < len(frame) {
			sum += uint32(frame[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	checksum := ^uint16(sum)
	if checksum == 0 {
		checksum = 0xffff // for UDP 0 means that there is none; for TCP the two are the same
	}
	binary.BigEndian.PutUint16(frame[at:], checksum)
	return frame, true
}
