package protect

import (
	"errors"
	"fmt"

	"tandem/lockstep/pair"
	"tandem/vmm/sums"
)

// maxAsks is how many of a primary's questions of one realm wait for their answers. A primary asks sums.Ahead at once.
const maxAsks = 2 * sums.Ahead

// asker asks the backup for sums, on the primary. It belongs to the goroutine that sends what they are of, but for answers.
type asker struct {
	t       *transfer
	realm   pair.Realm
	asked   []*pair.Ask // and not answered, the oldest first
	answers chan *pair.Sums
}

func newAsker(t *transfer, r pair.Realm) *asker {
	return &asker{t: t, realm: r, answers: make(chan *pair.Sums, sums.Ahead)}
}

// Ask implements sums.Asker.
func (a *asker) Ask(first uint64, count int) error {
	q := &pair.Ask{Sync: a.t.id, Realm: a.realm, First: first, Count: uint32(count), Key: a.t.key}
	a.asked = append(a.asked, q)
	return a.t.message(q)
}

// Answer implements sums.Asker.
func (a *asker) Answer() ([]sums.Sum, error) {
	q := a.asked[0]
	a.asked = a.asked[1:]
	select {
	case <-a.t.ctx.Done():
		return nil, a.t.ctx.Err()
	case s := <-a.answers:
		if s.First != q.First || len(s.Sums) > int(q.Count)*sums.Bytes {
			return nil, fmt.Errorf("the backup tells %d bytes of sums from %d, asked for %d from %d", len(s.Sums), s.First, q.Count, q.First)
		}
		out := make([]sums.Sum, len(s.Sums)/sums.Bytes)
		for i := range out {
			out[i] = sums.Sum(s.Sums[i*sums.Bytes:])
		}
		return out, nil
	}
}

// takeSums takes a backup's answer.
func (h *Host) takeSums(s *pair.Sums) {
	if h.guest == nil || h.guest.sync == nil || h.guest.sync.id != s.Sync {
		return
	}
	t := h.guest.sync
	select {
	case t.askers[s.Realm].answers <- s:
	default: // there is room for all that were asked for
		err := errors.New("the backup tells what it was not asked for")
		h.event(true, err.Error())
		h.conns.refuse(t.conn, err)
	}
}

// answer takes a primary's question.
func (h *Host) answer(a *pair.Ask) {
	if h.replica == nil {
		h.beginReplica(a.Sync)
	}
	select {
	case h.replica.asks[a.Realm] <- a:
	default:
		h.refuse(h.replica, errors.New("the primary asks for more before it has had its answers than it may"))
	}
}

// answerAll answers the primary's questions of a realm.
func (r *replica) answerAll(realm pair.Realm, tell func(*pair.Ask) ([]sums.Sum, error)) {
	for {
		select {
		case <-r.gone:
			return
		case a := <-r.asks[realm]:
			told, err := tell(a)
			if err != nil {
				r.host.post(func() { r.host.refuse(r, err) })
				return
			}
			s := &pair.Sums{Sync: a.Sync, Realm: a.Realm, First: a.First}
			for _, sum := range told {
				s.Sums = append(s.Sums, sum[:]...)
			}
			if r.conn.enqueue(pair.Encode(nil, r.term, s), true) != nil {
				return
			}
		}
	}
}
