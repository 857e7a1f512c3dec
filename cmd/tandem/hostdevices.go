package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"tandem/devices/virtio"
	"tandem/vmm"
	"tandem/vmm/blk"
	"tandem/vmm/netdev"
	"tandem/vmm/protect"
)

// hostDevices are a host's side of the devices of a pair's guest (protect.Devices). Networks and the console live as long as
// the program, whichever machine is behind them; images belong to one machine each.
type hostDevices struct {
	spec  *deviceSpec
	cards []*networkCard
	part  *part // whose console it is, and who leaves when the console's user wants that
	log   *slog.Logger

	// announcing ends what Announce has begun.
	announcing context.Context
	silence    context.CancelFunc
	announcers sync.WaitGroup
}

var _ protect.Devices = (*hostDevices)(nil)

// openHostDevices opens the networks.
func openHostDevices(spec *deviceSpec, p *part, log *slog.Logger) (*hostDevices, error) {
	cards, err := spec.openCards(log)
	if err != nil {
		return nil, err
	}
	h := &hostDevices{spec: spec, cards: cards, part: p, log: log}
	h.announcing, h.silence = context.WithCancel(context.Background())
	return h, nil
}

// close ends the networks. All machines have ended.
func (h *hostDevices) close() error {
	h.silence()
	h.announcers.Wait()
	return closeCards(h.cards)
}

// configure gives the devices that the flags ask for to a machine that starts here. The images are the machine's to close.
func (h *hostDevices) configure(c *vmm.Config) error {
	disks, err := h.spec.openDisks()
	if err != nil {
		return err
	}
	c.Disks = disks
	c.Entropy, c.MMIO = h.spec.rng, h.spec.mmio
	for _, n := range h.cards {
		c.NICs = append(c.NICs, n.nic())
	}
	h.part.console.configure(c)
	return nil
}

// Complete implements protect.Devices. It refuses by name what the flags don't have and the guest has, or otherwise.
func (h *hostDevices) Complete(c *vmm.Config) error {
	if err := h.completeNetworks(c.NICs); err != nil {
		return err
	}
	if c.VirtioConsole != nil && h.part.console.virtio == nil {
		return errors.New("the guest has a virtio console: say with --virtio-console where it goes, or that it goes to none")
	}
	if err := h.part.console.complete(c); err != nil {
		return err
	}
	return h.completeDisks(c.Disks)
}

func (h *hostDevices) completeNetworks(nics []vmm.NIC) error {
	if len(nics) != len(h.cards) {
		return fmt.Errorf("the guest has %d network devices and this host %d: give a --net for each, in the primary's order", len(nics), len(h.cards))
	}
	for i := range nics {
		card := h.cards[i]
		if err := card.suits(nics[i].NetConfig); err != nil {
			return fmt.Errorf("network device %d (--net %s): %w", i, card.config.Kind, err)
		}
		nics[i].Out, nics[i].OnOffloads = card.backend, card.backend.SetOffloads
	}
	return nil
}

// suits tells whether a network can be behind a device that a guest has already.
func (n *networkCard) suits(c virtio.NetConfig) error {
	if c.MAC != n.config.MAC {
		return fmt.Errorf("the guest's has the address %s and this host's %s: add mac=%[1]s", macText(c.MAC), macText(n.config.MAC))
	}
	if c.MTU != 0 && int(c.MTU) > n.config.MTU {
		return fmt.Errorf("the guest sends packets of %d bytes and this host's network takes %d: add mtu=%[1]d", c.MTU, n.config.MTU)
	}
	offers := n.backend.Offers()
	if c.Checksum && !offers.Checksum {
		return errors.New("the guest leaves checksums to its network, which this host's does not do: use the same kind on both hosts")
	}
	if c.TSO && !offers.TSO {
		return errors.New("the guest leaves cutting long segments to its network, which this host's does not do: use the same kind on both hosts")
	}
	return nil
}

func macText(mac [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5])
}

// completeDisks names this host's replicas. Their sizes and bases are checked where they are opened.
func (h *hostDevices) completeDisks(disks []vmm.Disk) error {
	if len(disks) != len(h.spec.disks) {
		return fmt.Errorf("the guest has %d disks and this host %d: give a --disk for each, in the primary's order", len(disks), len(h.spec.disks))
	}
	for i := range disks {
		own := h.spec.disks[i]
		switch {
		case disks[i].ReadOnly && !own.ReadOnly:
			return fmt.Errorf("disk %d (--disk %s): the primary's is read-only: add ro", i, own.Path)
		case !disks[i].ReadOnly && own.ReadOnly:
			return fmt.Errorf("disk %d (--disk %s): the guest writes to it: leave ro out", i, own.Path)
		}
		disks[i].Name = own.Path
	}
	return nil
}

// Disks implements protect.Devices.
func (h *hostDevices) Disks() []blk.Options {
	var options []blk.Options
	for _, d := range h.spec.disks {
		options = append(options, d.Options)
	}
	return options
}

// Connect implements protect.Devices.
func (h *hostDevices) Connect(m *vmm.Machine) {
	for _, n := range h.cards {
		n.machine.Store(m)
	}
	console := h.part.console
	h.part.display.hide(console.onTerminal())
	if err := console.makeRaw(); err != nil {
		h.log.Warn("the terminal stays as it is", "cause", err)
	}
	console.feed(m, h.part.leave)
}

// Disconnect implements protect.Devices.
func (h *hostDevices) Disconnect() {
	for _, n := range h.cards {
		n.machine.Store(nil)
	}
	h.part.console.feed(nil, h.part.leave)
	h.part.console.restore()
	h.part.display.hide(false)
}

// announceAt is when an announcement is made, after the guest has come: the first ones may meet a switch port that does not
// forward yet.
var announceAt = [...]time.Duration{0, 100 * time.Millisecond, 300 * time.Millisecond}

// Announce implements protect.Devices. It does not wait.
func (h *hostDevices) Announce(nic int, addresses []netip.Addr) {
	if nic < 0 || nic >= len(h.cards) {
		return
	}
	card := h.cards[nic]
	frames := announcements(card.config.MAC, addresses)
	h.announcers.Add(1)
	go func() {
		defer h.announcers.Done()
		start := time.Now()
		for _, at := range announceAt {
			select {
			case <-h.announcing.Done():
				return
			case <-time.After(at - time.Since(start)):
			}
			card.send(frames)
		}
	}()
}

// warnUserNetworks says which connections a failover breaks.
func (h *hostDevices) warnUserNetworks() {
	for i, c := range h.spec.nets {
		if c.Kind == netdev.User {
			h.log.Warn("connections of a user-mode network end with this host: use --net tap,bridge=NAME for those that are to go on", "network", i)
		}
	}
}
