// Package pair is the protocol of two hosts that are one guest: who follows whom, when output may leave, and which host
// goes on when the other is lost.
//
// # Contract
//
// A [Node] is one host's part, a deterministic state machine: [Node.Step] takes an event and returns actions. There is no
// clock, goroutine, socket or randomness in it; time comes in [Tick]s, and whoever drives it owns it. The driver does the
// actions in their order before it gives the next event, and must not lose any: an action that can't be done ends the
// host's part. What a peer sends never makes a Node panic; an event that the driver had no reason to give does.
//
// A Node knows records by their sequence numbers, output by a number of the driver's and by the last record that it was
// caused by. Records are opaque frames of package wire.
//
// # States
//
//		            primary                                    backup
//
//		joining --won first term--> alone           joining <-------- lost, given up ------+
//		alone --hello--> syncing --lost--> alone       |                                   |
//		                    |                          +--begin--> syncing --lost----------+
//		                  (cut)                                       |
//		                    +--ready--> protected                     +--applied--> protected --diverged--> joining
//		  lost after the cut |              | lost                                      | lost
//		                     +--contending--+                                      contending
//		                            |                                                   |
//		      +---------------------+---------+                      +----------+-------+------+
//		     won                no answer    lost                   won     no answer        lost
//		      |                     |         |                      |          |              |
//		    alone <----won------- paused --> fenced               draining <- paused -------> fenced
//		                                                             | drained
//		                                                           live --took over--> alone (now a primary)
//
//		fenced --discarded--> joining (as a backup)            any --ended--> stopped; a farewell, or the backup's
//		                                                       divergence: alone, or joining
//
//	  - joining: no machine. A primary claims its first term, a backup waits for a host that runs the guest.
//	  - syncing: a state transfer. Up to the cut the primary's output is free and the backup is nothing; losing each other
//	    costs nothing. From the cut on the primary's output is held, because the backup may become ready at any time.
//	  - protected: both have the machine; output goes by the rule.
//	  - contending: the peer is lost, the arbiter is asked. The primary's guest runs on, its output waits.
//	  - paused: the arbiter does not answer. The guest stands still; the claim is repeated until an answer comes.
//	  - draining: a backup that won executes what it received. live: it takes over network and storage. alone: it runs.
//	  - fenced: another host is the guest. The machine is stopped at once and its held output dropped.
//
// # Terms
//
// A term is won at the arbiter by one owner, once, and never ends but by a later one. A first primary wins one before its
// guest runs; who survives a pair of term t must win t+1. A host knows term t+1 by winning it, by losing it, or from who
// won it. Asking for t+1 is only for hosts that have the whole machine of term t, so that a stranger, a host that was
// restarted and one whose transfer was cut off can take the guest from nobody. What comes with an older term is refused.
// Once a claim has been sent there is no way back but its answer: it may already be won, so a peer that
// reappears meanwhile changes nothing. UnsafeWithoutArbiter takes terms without asking: then a partition makes two guests,
// which refuse each other when they meet.
//
// # Invariants, and where they stand
//
//  1. At most one host has a guest whose output is free (Live, Alone, Syncing before the cut): becomeContending is the only
//     way out of a pair beside a farewell, won the only way out of that to a running guest.
//  2. No output leaves a primary unless every record that led to it is where a possible survivor has it: release, with
//     cut as the instant from which it binds, before the backup can be ready.
//  3. A record that was acknowledged is on the host that goes live: fromPrimary acknowledges what StoreRecords has kept,
//     in sequence without a gap, and drained insists on all of it, unless the machine diverged.
//  4. Terms never fall, and a host that learns of a later term than its own stops its guest: meet, arbitrated.
//  5. A diverged backup verifies nothing, and is a backup no more: fromBackup, stepVerify, executed.
//  6. Queues are bounded: output by MaxHeldOutputs and records by StallLagRecords, through Pace; a peer's messages by
//     MaxBody; the text of a peer by MaxText.
//
// A backup that finds, while it has a primary, that its machine is another one says so and leaves without a claim; its primary is
// alone from then on, and makes it its backup again. If it finds it when the primary is lost, it may be all that is left of the
// guest and goes live. With RuleVerified it has had no output seen that its own machine did not make.
// With RuleReceived it may have; that is reported as an alarm.
//
// Output that was released, and of which the backup did not hear before it went live, is made a second time
// ([TakeOver] says from which record on). Networks and consoles bear that. What changes a shared disk is output here like any other,
// but what of it is done again the driver takes from the machine's state: all that the log has not completed (package vmm/blk
// proves that this is right). A primary that stands still for longer than detection and failover take, and then finds an
// acknowledgement that it had not read, releases output after the new host went live. It is output that the new host has the inputs
// of, so it is a packet that comes late. On a shared disk it would undo what the new host has written since, so the driver
// fences the disk itself: vmm/blk does, by a claim beside the disk that a holder looks at before it writes.
//
// # Messages
//
// Integers are little-endian. "zero" is checked. A message is a header and a body of at most MaxBody bytes:
//
//	offset  size  field
//	0       4     magic "TDPR"
//	4       2     version: 2
//	6       1     type
//	7       1     zero
//	8       4     length n of the body
//	12      4     zero
//	16      8     term
//	24      4     checksum (CRC-32C) of bytes 0 to 23 and of the body
//	28      4     zero
//	32      n     body
//
//	type          number  body
//	TypeHello     1       u8 condition, u8 rule, u8 length of owner (1 to 64), 5 zero; 32 bytes each: machine, CPUID,
//	                      configuration, arbiter, replica; u64 bytes of the replica; owner in UTF-8
//	TypeRefuse    2       u8 reason, 7 zero, text in UTF-8
//	TypeSyncBegin 3       u64 sync, 32 bytes replica, u64 byte from which the replica goes on
//	TypePages     4       u64 sync, u32 round, 4 zero, a part of a stream of pages (package wire)
//	TypeDisk      5       u64 sync, u64 bytes that the replica has, in their order, with this part; the part
//	TypeRoundEnd  6       u64 sync, u32 round, u32 flags (bit 0 final, others zero), u64 sequence of the cut
//	TypeReady     7       u64 sync
//	TypeRecords   8       u64 first, u64 released, u32 count (at least 1), 4 zero, a frame (package wire)
//	TypeAck       9       u64 received, u64 verified (not more)
//	TypeBeat      10      u64 released
//	TypeDiverged  11      u64 sequence, text in UTF-8
//	TypeBye       13      text in UTF-8
//	TypeAsk       14      u64 sync, u8 realm, 3 zero, u32 count (1 to MaxAsk), u64 first, 16 bytes key
//	TypeSums      15      u64 sync, u8 realm, 7 zero, u64 first, up to MaxAsk sums of 16 bytes
//
// Each side sends a hello first, the running side a SyncBegin next, then rounds of Pages ended by RoundEnds, with Disk
// between them; after the final one's RoundEnd, Records. The backup answers Ready, then Acks. Beats go both ways, also on
// a second path that is bound to the connection.
//
// Before the first round or the disks come to a piece, the primary may Ask for sums of what the backup has in hand there: of realm
// 1, memory, or 2, disks. Each Ask has one Sums for answer. A piece whose sum is that of the primary's own is marked as the same
// instead of being sent. A backup that tells wrong sums has a wrong machine, and nobody else is harmed.
//
// # Driving a Node
//
// Pages, Disk and Ask are sent by the driver itself, on the same connection and in order with what Send gives it; SendRound and
// SendDisks ask for them. So are Sums, for which AnswerAsk asks. A driver has few questions open at a time, and parts from a peer
// that has many, or that answers what was not asked. A receiver gets all messages through Step. The driver bounds how far it reads
// ahead: a backup whose memory for records is full reads no further, which the primary sees as lag.
// A guest that ended is reported by Ended when no output is held any more.
package pair
