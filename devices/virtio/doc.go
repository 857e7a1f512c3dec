// Package virtio has the machine's paravirtual devices: disk, network, entropy, console (virtio 1.2, committee
// specification 01), with split virtqueues, over PCI or over memory-mapped registers.
//
// # Parts
//
// A device ([Blk], [Net], [Rng], [Console]) embeds a [Core], which owns what all devices have: features, status,
// queues, interrupt status. A transport ([NewPCI], [NewMMIO]) is a view of a Core: it turns register accesses into its
// methods and has no state of its own.
//
// # Ownership and determinism
//
// Everything here belongs to the goroutine that owns the machine and is called between two KVM_RUNs only. The guest
// makes a device act by a register access; the machine makes it act by handing over an input. Both happen at an exit,
// and those are the only times at which guest memory is written. There is no clock, goroutine, file or randomness.
// Methods that the machine uses to ask whether an input could be taken now ([Net.CanReceive], [Net.Wants],
// [Console.Room]) change nothing, in the device or in the guest's memory, because they are not in the log.
//
// # Hostile guests
//
// The shape of a descriptor chain is read once, into memory of the device, and checked there; nothing is read twice.
// When a guest breaks the rules so that the device can't go on (a cycle, a descriptor outside of the table, a buffer
// outside of RAM, an available index that has run ahead), the device sets DEVICE_NEEDS_RESET, raises a configuration
// change interrupt and does nothing until it is reset (§2.1.2); [Core.Failure] names the cause. Writes to the registers
// of a queue that is in use are ignored.
//
// # Requests and inputs
//
// Work that takes time leaves as a request value and comes back as an input of the machine.
//
// Disk: [Blk] hands a [DiskRequest] to its [DiskBackend]; the answer is an input of kind KindDisk for [Blk.Complete]:
//
//	offset  size  field
//	0       8     request id, little-endian: 1, 2, 3, … in the order of submission, never used again
//	8       1     status: 0 done, 1 I/O error, 2 not supported
//	9       n     the data, for a read with status 0: exactly the length asked for; else n is 0
//
// Network: what [Net] sends to its sink, and the payload of an input of kind KindFrame, is one packet:
//
//	offset  size  field
//	0       12    struct virtio_net_hdr of §5.1.6 (little-endian; num_buffers has no meaning)
//	12      n     Ethernet frame without its check sequence, 14 to MaxFrame bytes
//
// That is what a Linux tap device reads and writes with IFF_VNET_HDR and a header size of 12. A back end without
// offloads writes 12 zero bytes and never sees anything else, because then no offload is offered to the guest.
//
// Entropy: [Rng] asks its [EntropySource] for a number of bytes and gets exactly as many by an input of kind
// KindRandom, in the order of its requests.
//
// Console: bytes typed are inputs of kind KindConsole, at most [Console.Room] at a time.
package virtio
