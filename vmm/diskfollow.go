package vmm

import (
	"log/slog"

	"tandem/vmm/blk"
)

// followDisks lets the machine's disks do what changes them, and nothing else: what the guest reads is in the log.
func (m *Machine) followDisks(log *slog.Logger) {
	v := &m.virtio
	for i, d := range m.config.Disks {
		if d.Image == nil {
			continue
		}
		b := v.backends[i]
		b.server, b.following, b.shared = blk.NewFollower(d.Name, d.Image, log), true, blk.IsShared(d.Image)
		b.server.OnLost(m.diskLost)
		for _, r := range v.disks[i].Pending() {
			b.server.Submit(r)
		}
	}
}

// await waits until this machine's disk has done what the log says that the primary's has done.
func (d *diskBackend) await(completion []byte) error {
	if !d.following {
		return nil
	}
	return d.server.Await(completion)
}

// goLiveDisks makes following disks ones that work by themselves, and completes what is under way. A disk that both hosts share
// is taken from the primary before.
func (m *Machine) goLiveDisks() error {
	for i, b := range m.virtio.backends {
		if !b.following {
			continue
		}
		b.following = false
		if err := blk.Acquire(m.config.Disks[i].Image); err != nil {
			return err
		}
		if err := b.server.GoLive(m.diskDone(i)); err != nil {
			return err
		}
	}
	return nil
}

// DiskFailure tells how a replica of a machine that follows is not what the guest believes any more: the machine must not
// take over.
func (m *Machine) DiskFailure() error {
	for _, b := range m.virtio.backends {
		if b.following {
			if err := b.server.Err(); err != nil {
				return err
			}
		}
	}
	return nil
}
