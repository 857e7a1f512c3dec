// Package blk holds the host's side of virtual disks: image files and block devices, copy-on-write overlays over a
// read-only base, and the workers that do a guest's requests.
//
// An [Image] is a disk's content. Its methods may be called from many goroutines at once; what concurrent writes to
// the same bytes leave is for the caller to order. A [Server] does that: it is the virtio.DiskBackend of one disk.
//
// Two replicas of a disk that get the same requests in the same order end with the same content: requests that overlap
// take effect in the order of submission, a flush comes after every write submitted before it, and what is discarded
// reads as zeros afterwards, whatever the storage below is.
//
// # Replicas
//
// Each host of a pair has its own replica of each disk. On the host that has the guest, every disk is a [Tracked] image, and
// the disks of a machine are a [Row]. A [Transfer] sends the row, as parts, while the guest writes to it; on the other host
// [Replicas] store them. When little is left the guest stands still for the rest. From then on the replica is kept by a
// server that follows ([NewFollower]): its machine submits the same requests, the log completes them, and what had not been
// completed when the transfer was cut is done by both hosts. If the first host is lost, the server goes live.
//
// A part of a row of disks, little-endian; it lies inside the row, and may go over the end of a disk into the next:
//
//	offset  size  field
//	0       1     kind: 1 data, 2 zeros, 3 as in the overlay's base, 4 as the replica has it
//	1       7     zero
//	8       8     offset in the row in bytes
//	16      8     length n in bytes, at least 1; of data at most 1 MiB
//	24      n     data; nothing for the others
//
// What lies at a disk's path when a replica is made there, of whatever time, may have much of the disk's content: an earlier replica,
// or the disk of a host that was lost. Its sums are told ([Replicas.Sums], package sums), of blocks of 64 KiB, and what has the sum
// of the primary's block is not sent. Nothing but equal content counts: neither the file's name nor a mark in it. The sums cost
// 256 MiB of traffic per TiB of stored content, and reading it on both hosts; of what is a hole or as in the base nobody asks.
// A transfer asks for a few MiB ahead and keeps no more sums than of those; a replica keeps a bit for each block, 2 MiB per TiB.
//
// A file that is becoming a replica has the extended attribute user.tandem.incomplete, and [Open] refuses it. What an overlay
// has from its base, and read-only disks, both hosts have, which their fingerprints tell ([Form]). Zeros are sent, as two
// words, so a replica can be made in a file or device that had something else.
//
// # Shared disks
//
// A disk whose image or block device both hosts reach, each under a path of its own, is one disk and no replica. While a host
// follows it has not even opened it: what the guest reads is in the log. On the host that has the guest, what changes the disk
// (writes, discards, flushes) is output once there is a backup: it is held ([Server.SubmitHeld]) until the backup has the record of
// it. Who takes over does again, in the order of submission, all requests that the log has not completed. That is right because
// of four rules:
//
//  1. A request begins when its record is on the backup, or it was submitted before the backup got the machine's state, which
//     then has it in flight.
//  2. Of requests that overlap, and of a flush and the writes before it, the later one begins when the earlier one is done and its
//     completion has been posted. So the log has their completions in their order.
//  3. A completion is posted when the change is on storage, where another host sees it: the file is opened with O_DSYNC. (What a
//     host only has in its memory would be lost with it, while the guest, which was told that it is written, lives on.)
//  4. The file is opened for this when the disk is taken over, and what the host may have cached of it is dropped.
//
// Let the new host's machine stand behind record n. Each change that has reached the file was submitted in a history of which the
// records up to n are a part or the beginning: by rule 1 it began with its record, or the state, on the backup, so the new host's
// guest has submitted it too. Nothing is on the disk that this guest has not written.
//
// If the log up to n has the completion of a change, it is on storage (rule 3), and stays. If not, it is done again, with the same
// data. It may have been done before, and a later change W' that overlaps with it, W, may have been done as well. Then W' has
// no completion up to n either: its completion is behind that of W in the log (rule 2). So W' is done again too, behind W. If
// the guest submitted W' only because W had been completed, then the record of W' is behind the completion of W, and as
// the record is on the backup (rule 1) so is the completion: W is not done again. In every sector the last word has the change
// that the guest submitted last, as on one host. While changes are done again the disk may go back to an older state for a
// moment; only requests in flight can see that, and of their order the guest was told nothing (virtio 1.2 §5.2.6 gives requests
// in flight none).
//
// A read that is held up behind a held write keeps the order that every disk here has; others go at once.
//
// Whose the disk is says its fence, a folder beside it or where Options.Fence says (fence.go has the format): every holder wins a
// number there, by one more than the one before it, and makes that one's file not empty. A holder opens its own file again before
// it writes, if it has not within the last 20 ms, and takes no answer that took more than 200 ms, by a clock that goes on while the
// host is suspended; a new holder waits for 250 ms before it writes. What was begun in time and then stood still (in a host that was
// stopped, in a network, in a controller) between that look and storage is not stopped by this; it takes storage that refuses a
// host, such as SCSI persistent reservations, to do so. It is at most one request for each worker, of which those do harm whose
// sectors the guest has written anew elsewhere meanwhile. The identity of the fence is how a backup knows that it has been given
// the same disk.
//
// # Overlay format, version 1
//
// An overlay keeps what differs from its base, in clusters of 4 KiB. It is a sparse file; all numbers are
// little-endian:
//
//	offset       size        content
//	0            4096        header
//	4096         512 × n     map: n sectors of 4064 bits each, one bit for each cluster, the lowest bit first
//	data offset  disk size   cluster c at data offset + 4096 × c; it means something only if its bit is set
//
// Header:
//
//	offset  size  field
//	0       8     magic "TANDEMOV"
//	8       4     version, 1
//	12      4     cluster size in bytes, 4096
//	16      8     disk size in bytes: the base's, a multiple of 512
//	24      8     number of map sectors
//	32      8     data offset: a multiple of 4096 behind the map
//	40      32    fingerprint of the base: SHA-256 over its size and 64 samples of 4 KiB
//	72      4     length of the base's path
//	76      4012  the base's path, zeros after it
//	4088    4     zero
//	4092    4     CRC-32C of the 4092 bytes before
//
// Map sector: 508 bytes of bits, then the CRC-32C of the sector's index (8 bytes) and those bits. A sector of zeros
// alone is one that was never written. Bits behind the disk's end are zero.
//
// The overlay is safe against a crash at any instant: bits are only ever set, and a bit reaches the file after the
// cluster that it stands for is on stable storage. A flush syncs the data, writes the map sectors that have changed,
// and syncs again. Sectors of 512 bytes are taken to be written as a whole or not at all, as disks do.
package blk
