package protect

import (
	"log/slog"
	"net/netip"
	"time"

	"tandem/kvm"
	"tandem/lockstep/arbiter"
	"tandem/lockstep/link"
	"tandem/lockstep/pair"
	"tandem/vmm"
	"tandem/vmm/blk"
)

// Config is what a host's part of a pair is made of.
type Config struct {
	System *kvm.System
	// Guest names the guest, at the arbiter and to its peer.
	Guest       string
	Credentials *link.Credentials
	Arbiter     arbiter.Arbiter
	// UnsafeWithoutArbiter lets a host that lost its peer be the guest without asking anyone: a partition makes two.
	UnsafeWithoutArbiter bool
	// TakeGuest lets RunPrimary start the guest anew although another host had it last. That host is fenced, and what the
	// guest has written there since is lost.
	TakeGuest bool
	// Listen is the TCP address that takes a peer's connection; "" takes none.
	Listen string
	// Peers are the TCP addresses that are dialled, in turn, while there is no peer.
	Peers []string
	// Heartbeat is the local UDP address of the second path, HeartbeatPeer the peer's; both may be "".
	Heartbeat, HeartbeatPeer string
	// Rule says when output may go.
	Rule pair.Rule
	// Detect is after how much silence on both paths a peer is lost; 0 takes the usual time.
	Detect  time.Duration
	Devices Devices
	Log     *slog.Logger
	// Progress, if not nil, is told how far a state transfer is. It is called from any goroutine and must not wait.
	Progress func(Transfer)
}

// Devices are a host's side of the guest's devices. The methods are called one at a time.
type Devices interface {
	// Disks says where this host's replicas of the guest's disks are, in the machine's order.
	Disks() []blk.Options
	// Complete adds this host's sinks and the like to the configuration of a machine that a primary has sent, all but the
	// disks' images, or says why this host can't have the machine. It is called for each machine that this host follows.
	Complete(*vmm.Config) error
	// Connect gives the devices the machine that is the guest: from now on what they receive is its input.
	Connect(*vmm.Machine)
	// Disconnect says that the machine is not the guest any more, and will be closed.
	Disconnect()
	// Announce tells a network that the guest is behind this host now. The addresses are those that the guest was seen
	// to use, by network device.
	Announce(nic int, addresses []netip.Addr)
}
