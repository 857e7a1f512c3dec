package netdev

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tandem/devices/virtio"
	"tandem/vmm/netdev/frame"
)

// tap is a tap interface on a bridge. The interface lives as long as its file is open, so that nothing stays behind even
// if this process is killed.
type tap struct {
	file  *os.File
	queue *frame.Queue // from the guest
	link  linkState
	group sync.WaitGroup
}

// openTap makes the interface and joins it to the bridge.
func openTap(c Config, post Post, log *slog.Logger) (*tap, error) {
	bridge, err := findBridge(c.Bridge)
	if err != nil {
		return nil, err
	}
	file, name, err := makeTap(c.Interface)
	if err != nil {
		return nil, err
	}
	t := &tap{file: file, queue: frame.NewQueue(maxQueuedPackets, maxQueuedBytes), link: linkState{log: log, name: name}}
	if err := t.join(name, bridge, c.MTU); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	t.group.Go(func() { t.receive(post) })
	t.group.Go(t.send)
	return t, nil
}

func findBridge(name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil, fmt.Errorf("there is no bridge %s: make one (ip link add %s type bridge), or name another", name, name)
	}
	if err != nil {
		return nil, fmt.Errorf("looking for bridge %s: %w", name, err)
	}
	if l.Type() != "bridge" {
		return nil, fmt.Errorf("%s is not a bridge: name a bridge", name)
	}
	return l, nil
}

// makeTap makes a new interface. One that has the name already is never taken over.
func makeTap(name string) (*os.File, string, error) {
	if _, err := os.Stat("/dev/net/tun"); errors.Is(err, fs.ErrNotExist) {
		return nil, "", errors.New("this host has no /dev/net/tun: load its module (modprobe tun), or use --net user")
	}
	wanted := name
	if wanted == "" {
		wanted = "tandem%d" // the kernel numbers it
	} else if _, err := netlink.LinkByName(name); err == nil {
		return nil, "", fmt.Errorf("there is an interface %s already: choose another ifname, or leave it out", name)
	}
	l := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: wanted}, Mode: netlink.TUNTAP_MODE_TAP, NonPersist: true, Queues: 1,
		Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR | netlink.TUNTAP_TUN_EXCL,
		Owner: uint32(os.Getuid()), Group: uint32(os.Getgid()),
	}
	err := netlink.LinkAdd(l)
	if len(l.Fds) != 1 || err != nil {
		for _, f := range l.Fds {
			f.Close()
		}
		if os.Geteuid() != 0 {
			return nil, "", fmt.Errorf("this user may not make a tap interface: run as root or with CAP_NET_ADMIN, or use --net user (%v)", err)
		}
		return nil, "", fmt.Errorf("making a tap interface: %w", err)
	}
	return l.Fds[0], l.Name, nil
}

// join sets the interface up for packets as the device makes them, and puts it on the bridge.
func (t *tap) join(name string, bridge netlink.Link, mtu int) error {
	err := t.control(func(fd int) error { return unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, frame.HeaderBytes) })
	if err != nil {
		return fmt.Errorf("tap %s: setting the size of the header: %w", name, err)
	}
	t.SetOffloads(virtio.Offloads{})
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("tap %s: %w", name, err)
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{fmt.Sprintf("setting the MTU to %d", mtu), func() error { return netlink.LinkSetMTU(l, mtu) }},
		{"joining bridge " + bridge.Attrs().Name, func() error { return netlink.LinkSetMaster(l, bridge) }},
		{"bringing it up", func() error { return netlink.LinkSetUp(l) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("tap %s: %s: %w", name, step.what, err)
		}
	}
	return nil
}

func (t *tap) control(f func(fd int) error) error {
	raw, err := t.file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// Offers implements Backend: the kernel takes what its own drivers make.
func (t *tap) Offers() Offers { return Offers{Checksum: true, TSO: true} }

// SetOffloads implements Backend: it tells the kernel what it may hand over.
func (t *tap) SetOffloads(o virtio.Offloads) {
	flags := 0
	for _, f := range []struct {
		on  bool
		bit int
	}{{o.Checksum, unix.TUN_F_CSUM}, {o.Checksum && o.TSO4, unix.TUN_F_TSO4}, {o.Checksum && o.TSO6, unix.TUN_F_TSO6}} {
		if f.on {
			flags |= f.bit
		}
	}
	if err := t.control(func(fd int) error { return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, flags) }); err != nil {
		t.link.lost(fmt.Errorf("setting the offloads: %w", err))
	}
}

// Output implements Backend.
func (t *tap) Output(packet []byte) {
	if frame.Valid(packet) {
		t.queue.Offer(packet)
	}
}

// receive reads packets for the guest until the interface or the machine is gone. The kernel drops what is not read.
func (t *tap) receive(post Post) {
	p := make([]byte, frame.HeaderBytes+frame.MaxBytes)
	for {
		n, err := t.file.Read(p)
		if err != nil {
			if !errors.Is(err, fs.ErrClosed) {
				t.link.lost(err)
			}
			return
		}
		if frame.Valid(p[:n]) && post(bytes.Clone(p[:n])) != nil {
			return
		}
	}
}

// send writes the guest's packets. One that the kernel refuses is lost; an interface that is gone is reported.
func (t *tap) send() {
	for {
		p, ok := t.queue.Take()
		if !ok {
			return
		}
		_, err := t.file.Write(p)
		if errors.Is(err, unix.EBADFD) || errors.Is(err, unix.EIO) {
			t.link.lost(err)
		}
	}
}

// Close implements Backend. The interface goes with its file.
func (t *tap) Close() error {
	t.queue.Close()
	err := t.file.Close()
	t.group.Wait()
	return err
}
