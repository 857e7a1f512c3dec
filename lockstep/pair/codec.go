package pair

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"unicode/utf8"
)

// HeaderBytes is the size of a message's header.
const HeaderBytes = 32

const magic = 0x52504454 // "TDPR"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode appends a message of a term to dst. A message that breaks a bound is this program's fault: it panics.
func Encode(dst []byte, term uint64, m Message) []byte {
	le := binary.LittleEndian
	start := len(dst)
	dst = le.AppendUint32(dst, magic)
	dst = le.AppendUint16(dst, Version)
	dst = append(dst, byte(m.Type()), 0)
	dst = append(dst, make([]byte, HeaderBytes-8)...)
	dst = appendBody(dst, m)
	body := dst[start+HeaderBytes:]
	if len(body) > MaxBody {
		panic(fmt.Sprintf("pair: a message of type %d has %d bytes", m.Type(), len(body)))
	}
	head := dst[start : start+HeaderBytes]
	le.PutUint32(head[8:], uint32(len(body)))
	le.PutUint64(head[16:], term)
	le.PutUint32(head[24:], checksum(head, body))
	if _, err := decodeBody(m.Type(), body); err != nil {
		panic("pair: encode " + err.Error())
	}
	return dst
}

func checksum(head, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(head[:24], castagnoli), castagnoli, body)
}

func appendBody(dst []byte, m Message) []byte {
	le := binary.LittleEndian
	switch m := m.(type) {
	case *Hello:
		dst = append(dst, byte(m.Condition), byte(m.Identity.Rule), byte(len(m.Owner)), 0, 0, 0, 0, 0)
		for _, d := range []Digest{m.Identity.Machine, m.Identity.CPUID, m.Identity.Configuration, m.Identity.Arbiter, m.Replica} {
			dst = append(dst, d[:]...)
		}
		dst = le.AppendUint64(dst, m.ReplicaBytes)
		return append(dst, m.Owner...)
	case *Refuse:
		dst = append(dst, byte(m.Reason), 0, 0, 0, 0, 0, 0, 0)
		return append(dst, m.Text...)
	case *SyncBegin:
		dst = le.AppendUint64(dst, m.Sync)
		dst = append(dst, m.Replica[:]...)
		return le.AppendUint64(dst, m.DiskBytes)
	case *Pages:
		dst = le.AppendUint64(dst, m.Sync)
		dst = le.AppendUint32(dst, m.Round)
		dst = le.AppendUint32(dst, 0)
		return append(dst, m.Data...)
	case *Disk:
		dst = le.AppendUint64(dst, m.Sync)
		dst = le.AppendUint64(dst, m.Through)
		return append(dst, m.Data...)
	case *RoundEnd:
		dst = le.AppendUint64(dst, m.Sync)
		dst = le.AppendUint32(dst, m.Round)
		final := uint32(0)
		if m.Final {
			final = 1
		}
		dst = le.AppendUint32(dst, final)
		return le.AppendUint64(dst, m.Sequence)
	case *Ready:
		return le.AppendUint64(dst, m.Sync)
	case *Records:
		dst = le.AppendUint64(dst, m.First)
		dst = le.AppendUint64(dst, m.Released)
		dst = le.AppendUint32(dst, m.Count)
		dst = le.AppendUint32(dst, 0)
		return append(dst, m.Frame...)
	case *Ack:
		return le.AppendUint64(le.AppendUint64(dst, m.Received), m.Verified)
	case *Beat:
		return le.AppendUint64(dst, m.Released)
	case *Diverged:
		return append(le.AppendUint64(dst, m.Sequence), m.Text...)
	case *Bye:
		return append(dst, m.Text...)
	case *Ask:
		dst = le.AppendUint64(dst, m.Sync)
		dst = append(dst, byte(m.Realm), 0, 0, 0)
		dst = le.AppendUint32(dst, m.Count)
		dst = le.AppendUint64(dst, m.First)
		return append(dst, m.Key[:]...)
	case *Sums:
		dst = le.AppendUint64(dst, m.Sync)
		dst = append(dst, byte(m.Realm), 0, 0, 0, 0, 0, 0, 0)
		dst = le.AppendUint64(dst, m.First)
		return append(dst, m.Sums...)
	}
	panic(fmt.Sprintf("pair: no layout for %T", m))
}

// FormatError says that bytes are no message.
type FormatError struct{ text string }

func (e *FormatError) Error() string { return e.text }

func malformed(format string, args ...any) error { return &FormatError{fmt.Sprintf(format, args...)} }

// BodyBytes checks a header, all but its checksum, and returns how many bytes of body follow it.
func BodyBytes(head []byte) (int, error) {
	le := binary.LittleEndian
	switch {
	case len(head) < HeaderBytes:
		return 0, malformed("a header of %d bytes, %d needed", len(head), HeaderBytes)
	case le.Uint32(head) != magic:
		return 0, malformed("no message begins here (%#08x)", le.Uint32(head))
	case le.Uint16(head[4:]) != Version:
		return 0, malformed("the peer speaks version %d of the protocol, this program version %d: install the same release on both hosts",
			le.Uint16(head[4:]), Version)
	case head[6] == 0 || head[6] > byte(TypeSums):
		return 0, malformed("a message of type %d", head[6])
	case head[7] != 0 || le.Uint32(head[12:]) != 0 || le.Uint32(head[28:]) != 0:
		return 0, malformed("reserved bytes of a header are set")
	case le.Uint32(head[8:]) > MaxBody:
		return 0, malformed("a message of %d bytes, at most %d allowed", le.Uint32(head[8:]), MaxBody)
	}
	return int(le.Uint32(head[8:])), nil
}

// Decode decodes the one message that is p. Data and Frame of the message point into p.
func Decode(p []byte) (term uint64, m Message, err error) {
	n, err := BodyBytes(p)
	if err != nil {
		return 0, nil, err
	}
	body := p[HeaderBytes:]
	if len(body) != n {
		return 0, nil, malformed("a message of %d bytes says that it has %d", len(body), n)
	}
	le := binary.LittleEndian
	if stored, sum := le.Uint32(p[24:]), checksum(p, body); stored != sum {
		return 0, nil, malformed("a message's checksum is %08x, its bytes have %08x", stored, sum)
	}
	m, err = decodeBody(Type(p[6]), body)
	return le.Uint64(p[16:]), m, err
}

// minBody is the size in bytes of each type's fixed part; a type that is not in variable has nothing behind it.
var minBody = [...]int{
	TypeHello: 176, TypeRefuse: 8, TypeSyncBegin: 48, TypePages: 16, TypeDisk: 16, TypeRoundEnd: 24, TypeReady: 8,
	TypeRecords: 24, TypeAck: 16, TypeBeat: 8, TypeDiverged: 8, TypeBye: 0, TypeAsk: 40, TypeSums: 24,
}

var maxMore = [...]int{
	TypeHello: MaxOwner, TypeRefuse: MaxText, TypePages: MaxBody - 16, TypeDisk: MaxBody - 16,
	TypeRecords: MaxBody - 24, TypeDiverged: MaxText, TypeBye: MaxText, TypeSums: MaxAsk * SumBytes,
}

func decodeBody(t Type, b []byte) (Message, error) {
	le := binary.LittleEndian
	if more := len(b) - minBody[t]; more < 0 || more > maxMore[t] {
		return nil, malformed("a message of type %d with %d bytes", t, len(b))
	}
	u64 := func(at int) uint64 { return le.Uint64(b[at:]) }
	switch t {
	case TypeHello:
		return decodeHello(b)
	case TypeRefuse:
		r := &Refuse{Reason: Reason(b[0]), Text: string(b[8:])}
		if !r.Reason.valid() || u64(0)>>8 != 0 || !utf8.ValidString(r.Text) {
			return nil, malformed("a refusal for reason %d", b[0])
		}
		return r, nil
	case TypeSyncBegin:
		return &SyncBegin{Sync: u64(0), Replica: Digest(b[8:40]), DiskBytes: u64(40)}, nil
	case TypePages:
		if le.Uint32(b[12:]) != 0 {
			return nil, malformed("reserved bytes of pages are set")
		}
		return &Pages{Sync: u64(0), Round: le.Uint32(b[8:]), Data: b[16:]}, nil
	case TypeDisk:
		if u64(8) > math.MaxInt64-MaxBody {
			return nil, malformed("a part of a disk at byte %d", u64(8))
		}
		return &Disk{Sync: u64(0), Through: u64(8), Data: b[16:]}, nil
	case TypeRoundEnd:
		if le.Uint32(b[12:]) > 1 {
			return nil, malformed("reserved bits of a round's end are set")
		}
		return &RoundEnd{Sync: u64(0), Round: le.Uint32(b[8:]), Final: b[12] == 1, Sequence: u64(16)}, nil
	case TypeReady:
		return &Ready{Sync: u64(0)}, nil
	case TypeRecords:
		r := &Records{First: u64(0), Released: u64(8), Count: le.Uint32(b[16:]), Frame: b[24:]}
		if r.First == 0 || r.Count == 0 || r.First > math.MaxUint64-uint64(r.Count) || le.Uint32(b[20:]) != 0 {
			return nil, malformed("%d records from sequence number %d", r.Count, r.First)
		}
		return r, nil
	case TypeAck:
		a := &Ack{Received: u64(0), Verified: u64(8)}
		if a.Verified > a.Received {
			return nil, malformed("record %d verified, of %d received", a.Verified, a.Received)
		}
		return a, nil
	case TypeBeat:
		return &Beat{Released: u64(0)}, nil
	case TypeDiverged:
		d := &Diverged{Sequence: u64(0), Text: string(b[8:])}
		if !utf8.ValidString(d.Text) {
			return nil, malformed("a divergence whose text is not UTF-8")
		}
		return d, nil
	case TypeBye:
		if !utf8.Valid(b) {
			return nil, malformed("a farewell that is not UTF-8")
		}
		return &Bye{Text: string(b)}, nil
	case TypeAsk:
		a := &Ask{Sync: u64(0), Realm: Realm(b[8]), Count: le.Uint32(b[12:]), First: u64(16), Key: [KeyBytes]byte(b[24:])}
		if !a.Realm.valid() || le.Uint32(b[8:])>>8 != 0 || a.Count == 0 || a.Count > MaxAsk || a.First > math.MaxInt64 {
			return nil, malformed("a question for %d sums from %d of realm %d", a.Count, a.First, b[8])
		}
		return a, nil
	case TypeSums:
		s := &Sums{Sync: u64(0), Realm: Realm(b[8]), First: u64(16), Sums: b[24:]}
		if !s.Realm.valid() || u64(8)>>8 != 0 || s.First > math.MaxInt64 || len(s.Sums)%SumBytes != 0 {
			return nil, malformed("%d bytes of sums of realm %d", len(s.Sums), b[8])
		}
		return s, nil
	}
	return nil, malformed("a message of type %d", t)
}

func decodeHello(b []byte) (Message, error) {
	h := &Hello{Condition: Condition(b[0]), Owner: string(b[176:]), ReplicaBytes: binary.LittleEndian.Uint64(b[168:])}
	h.Identity.Rule = Rule(b[1])
	for i, d := range []*Digest{&h.Identity.Machine, &h.Identity.CPUID, &h.Identity.Configuration, &h.Identity.Arbiter, &h.Replica} {
		*d = Digest(b[8+32*i : 40+32*i])
	}
	switch {
	case h.Condition != Waiting && h.Condition != Running, h.Identity.Rule != RuleReceived && h.Identity.Rule != RuleVerified:
		return nil, malformed("a hello with condition %d and rule %d", b[0], b[1])
	case int(b[2]) != len(h.Owner) || h.Owner == "" || !utf8.ValidString(h.Owner):
		return nil, malformed("a hello whose owner is %q", h.Owner)
	case binary.LittleEndian.Uint64(b)>>24 != 0:
		return nil, malformed("reserved bytes of a hello are set")
	}
	return h, nil
}
