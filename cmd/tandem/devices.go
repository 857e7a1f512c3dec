package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"

	"tandem/devices/virtio"
	"tandem/vmm"
	"tandem/vmm/blk"
	"tandem/vmm/netdev"
)

// deviceFlags are the flags that say what virtio devices a guest gets.
type deviceFlags struct {
	disks, nets, forwards []string
	rng, mmio             bool
	virtioConsole         string // what openConsoles opens, "" for none
}

func (f *deviceFlags) register(cmd *cobra.Command) {
	f.registerHostSide(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&f.rng, "rng", true, "give the guest a virtio entropy device")
	flags.BoolVar(&f.mmio, "virtio-mmio", false, "put virtio devices on memory-mapped registers, for a kernel built without PCI")
}

// registerHostSide registers the flags that say what is behind the devices on a host.
func (f *deviceFlags) registerHostSide(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.disks, "disk", nil, "virtio disk: a raw image or a block device, `FILE[,ro][,overlay=FILE][,shared[,fence=FOLDER]][,serial=TEXT][,discard]`; shared: both hosts of a pair reach it, on storage that they have in common; may be repeated")
	flags.StringArrayVar(&f.nets, "net", nil, "virtio network: `user[,forward=[ADDR:]PORT:GUESTPORT]...[,loopback] | tap,bridge=NAME[,ifname=NAME] | hub,path=SOCKET | none`, each with [,mac=ADDR][,mtu=BYTES]; may be repeated")
	flags.StringArrayVar(&f.forwards, "forward", nil, "`[ADDR:]PORT:GUESTPORT` leads to the guest: in short for --net user,forward=...; may be repeated")
	flags.StringVar(&f.virtioConsole, "virtio-console", "", "give the guest a virtio console (hvc0 in Linux), and say where it goes: stdio, none, or file:`PATH` (output only)")
}

// deviceSpec is what the flags ask for, read and checked; nothing is opened yet.
type deviceSpec struct {
	disks []diskSpec
	nets  []netdev.Config
	rng   bool
	mmio  bool
	// virtioConsole says that the guest gets one.
	virtioConsole bool
}

// diskSpec is one --disk.
type diskSpec struct {
	blk.Options
	serial  string
	discard bool
}

func (f *deviceFlags) read() (*deviceSpec, error) {
	s := &deviceSpec{rng: f.rng, mmio: f.mmio, virtioConsole: f.virtioConsole != ""}
	for i, text := range f.disks {
		d, err := parseDisk(text, i)
		if err != nil {
			return nil, err
		}
		s.disks = append(s.disks, d)
	}
	if err := checkDisksDiffer(s.disks); err != nil {
		return nil, err
	}
	for i, text := range f.nets {
		c, err := netdev.Parse(text, i)
		if err != nil {
			return nil, fmt.Errorf("--net %s: %w", text, err)
		}
		s.nets = append(s.nets, c)
	}
	if err := s.addForwards(f.forwards); err != nil {
		return nil, err
	}
	if err := netdev.CheckAll(s.nets); err != nil {
		return nil, fmt.Errorf("--net: %w", err)
	}
	return s, nil
}

// parseDisk reads FILE[,ro][,overlay=FILE][,shared[,fence=FOLDER]][,serial=TEXT][,discard], for the index-th disk.
func parseDisk(text string, index int) (diskSpec, error) {
	fields := strings.Split(text, ",")
	d := diskSpec{Options: blk.Options{Path: fields[0]}, serial: fmt.Sprintf("disk%d", index)}
	bad := func(format string, args ...any) (diskSpec, error) {
		return diskSpec{}, fmt.Errorf("--disk %s: %s", text, fmt.Sprintf(format, args...))
	}
	if d.Path == "" {
		return bad("name a file first: --disk FILE[,ro][,overlay=FILE][,shared[,fence=FOLDER]][,serial=TEXT][,discard]")
	}
	seen := map[string]bool{}
	for _, field := range fields[1:] {
		key, value, hasValue := strings.Cut(field, "=")
		if seen[key] {
			return bad("%s is given twice", key)
		}
		seen[key] = true
		if hasValue && value == "" {
			return bad("%s= has no value", key)
		}
		switch {
		case key == "ro" && !hasValue:
			d.ReadOnly = true
		case key == "discard" && !hasValue:
			d.discard = true
		case key == "overlay" && hasValue:
			d.Overlay = value
		case key == "shared" && !hasValue:
			d.Shared = true
		case key == "fence" && hasValue:
			d.Fence = value
		case key == "serial" && hasValue:
			d.serial = value
		default:
			return bad("%q is not known: the options are ro, overlay=FILE, shared, fence=FOLDER, serial=TEXT and discard", field)
		}
	}
	if d.ReadOnly && d.discard {
		return bad("nothing can be discarded from a read-only disk: leave ro or discard out")
	}
	if err := d.Check(); err != nil {
		return diskSpec{}, fmt.Errorf("--disk: %w", err)
	}
	return d, nil
}

// addForwards gives the first user-mode network the ports of --forward; without any --net it makes that network.
func (s *deviceSpec) addForwards(forwards []string) error {
	if len(forwards) == 0 {
		return nil
	}
	if len(s.nets) == 0 {
		c, err := netdev.Parse(string(netdev.User), 0)
		if err != nil {
			return err
		}
		s.nets = append(s.nets, c)
	}
	for i := range s.nets {
		if s.nets[i].Kind != netdev.User {
			continue
		}
		for _, text := range forwards {
			f, err := netdev.ParseForward(text)
			if err == nil {
				err = s.nets[i].AddForward(f)
			}
			if err != nil {
				return fmt.Errorf("--forward: %w", err)
			}
		}
		return nil
	}
	return errors.New("--forward needs a user-mode network: add --net user, or leave the other --net out")
}

// cmdline is what the kernel has to be told of the devices.
func (s *deviceSpec) cmdline() string {
	if !s.mmio {
		return ""
	}
	n := len(s.disks) + len(s.nets)
	if s.rng {
		n++
	}
	if s.virtioConsole {
		n++
	}
	return strings.Join(vmm.MMIODevices(n), " ")
}

// openDevices are the host's side of a machine's devices.
type openDevices struct {
	disks []vmm.Disk
	nics  []*networkCard
}

// open opens images and networks. On failure nothing stays open.
func (s *deviceSpec) open(log *slog.Logger) (*openDevices, error) {
	o := &openDevices{}
	var err error
	if o.disks, err = s.openDisks(); err != nil {
		return nil, err
	}
	if o.nics, err = s.openCards(log); err != nil {
		return nil, errors.Join(err, closeDisks(o.disks))
	}
	return o, nil
}

// openDisks opens the images. On failure none stays open.
func (s *deviceSpec) openDisks() ([]vmm.Disk, error) {
	var disks []vmm.Disk
	for _, d := range s.disks {
		image, err := blk.Open(d.Options)
		if err != nil {
			return nil, errors.Join(err, closeDisks(disks))
		}
		disks = append(disks, vmm.Disk{
			BlkConfig: virtio.BlkConfig{
				Sectors: uint64(image.Size()) / virtio.SectorSize, ReadOnly: d.ReadOnly, Discard: d.discard, Serial: d.serial,
			},
			Name: d.Path, Image: image,
		})
	}
	return disks, nil
}

// closeDisks closes images that no machine has got.
func closeDisks(disks []vmm.Disk) error {
	var errs []error
	for _, d := range disks {
		if d.Image != nil {
			errs = append(errs, d.Image.Close())
		}
	}
	return errors.Join(errs...)
}

// openCards opens the networks. On failure none stays open.
func (s *deviceSpec) openCards(log *slog.Logger) ([]*networkCard, error) {
	var cards []*networkCard
	for i, c := range s.nets {
		card, err := openCard(c, uint8(i), log)
		if err != nil {
			return nil, errors.Join(err, closeCards(cards))
		}
		cards = append(cards, card)
	}
	return cards, nil
}

// abandon closes what no machine has got.
func (o *openDevices) abandon() error { return errors.Join(closeDisks(o.disks), o.closeNetworks()) }

// configure puts the devices into a machine's configuration. From then on the images are the machine's to close.
func (o *openDevices) configure(c *vmm.Config, s *deviceSpec) {
	c.Disks, c.Entropy, c.MMIO = o.disks, s.rng, s.mmio
	for _, n := range o.nics {
		c.NICs = append(c.NICs, n.nic())
	}
}

// connect gives the machine what the networks receive. It has its door.
func (o *openDevices) connect(m *vmm.Machine) {
	for _, n := range o.nics {
		n.machine.Store(m)
	}
}

// closeNetworks ends the networks. The machine, if there is one, has ended.
func (o *openDevices) closeNetworks() error { return closeCards(o.nics) }

func closeCards(cards []*networkCard) error {
	var errs []error
	for _, n := range cards {
		n.ended.Store(true)
		errs = append(errs, n.backend.Close())
	}
	return errors.Join(errs...)
}

// networkCard joins a network and a machine's network device.
type networkCard struct {
	config  netdev.Config
	index   uint8
	backend netdev.Backend
	machine atomic.Pointer[vmm.Machine] // nil until it has its door: what is received before is lost
	ended   atomic.Bool
}

func openCard(c netdev.Config, index uint8, log *slog.Logger) (*networkCard, error) {
	n := &networkCard{config: c, index: index}
	var err error
	n.backend, err = netdev.Open(c, n.post, log)
	return n, err
}

// errEnded tells a network that nobody receives any more.
var errEnded = errors.New("the machine has ended")

// post implements netdev.Post. A packet that finds no room is lost, as on a wire: waiting would hold up the network's
// other work, and the guest's acknowledgements with it.
func (n *networkCard) post(packet []byte) error {
	if n.ended.Load() {
		return errEnded
	}
	if m := n.machine.Load(); m != nil {
		m.Offer(n.index, packet)
	}
	return nil
}

func (n *networkCard) nic() vmm.NIC {
	offers := n.backend.Offers()
	return vmm.NIC{
		NetConfig:  virtio.NetConfig{MAC: n.config.MAC, MTU: uint16(n.config.MTU), Checksum: offers.Checksum, TSO: offers.TSO},
		Out:        n.backend,
		OnOffloads: n.backend.SetOffloads,
	}
}
