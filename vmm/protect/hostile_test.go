package protect

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"tandem/lockstep/link"
	"tandem/lockstep/pair"
)

// liar is a peer that speaks the protocol and says in it what it likes.
type liar struct {
	t    *testing.T
	link *link.Conn
	term uint64
}

// lie connects to a host with the keys of a host of the pair, and greets it.
func (p *pairOfHosts) lie(t *testing.T, number int, address string, condition pair.Condition, term uint64) *liar {
	t.Helper()
	credentials, err := link.LoadCredentials(p.keys[number])
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	c, err := link.Dial(ctx, address, link.Config{
		Credentials: credentials, Version: pair.Version, Log: slog.New(slog.DiscardHandler), MaxPayloadBytes: pair.HeaderBytes + pair.MaxBody,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	l := &liar{t: t, link: c, term: term}
	hello, ok := l.next().(*pair.Hello)
	if !ok {
		t.Fatal("there is no hello")
	}
	l.say(&pair.Hello{Identity: hello.Identity, Condition: condition, Owner: "liar"})
	return l
}

func (l *liar) send(p []byte) error { return errors.Join(l.link.Send(p[6], p), l.link.Flush()) }

// say sends messages.
func (l *liar) say(messages ...pair.Message) {
	l.t.Helper()
	for _, m := range messages {
		if l.send(pair.Encode(nil, l.term, m)) != nil {
			return // the peer has had enough
		}
	}
}

// next returns the next message, or nil when the peer has parted.
func (l *liar) next() pair.Message {
	l.t.Helper()
	_, p, err := l.link.Receive()
	if err != nil {
		return nil
	}
	term, m, err := pair.Decode(append([]byte(nil), p...))
	if err != nil {
		l.t.Fatal(err)
	}
	l.term = max(l.term, term)
	return m
}

// A backup that tells wrong sums is sent everything, one that tells what it was not asked for is left; neither does the guest harm.
func TestPrimaryBearsWrongSums(t *testing.T) {
	answer := func(a *pair.Ask, first uint64, count int) *pair.Sums {
		return &pair.Sums{Sync: a.Sync, Realm: a.Realm, First: first, Sums: filling(count * pair.SumBytes)}
	}
	for _, c := range []struct {
		name   string
		answer func(*pair.Ask) []pair.Message
		says   string // of the primary; "" lets the whole state come
	}{
		{"wrong", func(a *pair.Ask) []pair.Message { return []pair.Message{answer(a, a.First, int(a.Count))} }, ""},
		{"of elsewhere", func(a *pair.Ask) []pair.Message { return []pair.Message{answer(a, a.First+1, int(a.Count))} }, "the state transfer ended"},
		{"too many", func(a *pair.Ask) []pair.Message { return []pair.Message{answer(a, a.First, int(a.Count)+1)} }, "the state transfer ended"},
		{"again and again", func(a *pair.Ask) (all []pair.Message) {
			for range 1000 {
				all = append(all, answer(a, a.First, int(a.Count)))
			}
			return all
		}, "lost the peer"},
		{"of another transfer", func(a *pair.Ask) []pair.Message {
			return []pair.Message{&pair.Sums{Sync: a.Sync + 1, Realm: a.Realm, First: a.First}}
		}, "the peer breaks the protocol"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPair(t, pair.RuleReceived)
			p.fill, p.detect = 8<<20, deadline
			p.rawDisks(t)
			guest := p.start(t, 0, "uart-echo")
			guest.out.text(t, "ready\n")
			l := p.lie(t, 1, guest.listen, pair.Waiting, 0)
			pages, disks, cut := 0, 0, false
			for parted := false; !parted && !cut; {
				switch m := l.next().(type) {
				case nil:
					parted = true
				case *pair.Ask:
					l.say(c.answer(m)...)
				case *pair.Pages:
					pages += len(m.Data)
				case *pair.Disk:
					disks += len(m.Data)
				case *pair.RoundEnd:
					cut = m.Final
				}
			}
			if cut != (c.says == "") || cut && (pages < p.fill || disks < diskBytes) {
				t.Errorf("%d bytes of pages and %d of disks came, all: %v", pages, disks, cut)
			}
			_ = l.link.Close()
			guest.errs.text(t, c.says)
			guest.typed(t, "abc")
			guest.out.text(t, "ABC")
			backup := p.start(t, 1, "", guest.listen)
			backup.errs.text(t, "state backup protected")
		})
	}
}

// A primary that asks for more than it may, or for what there is not, is left by its backup, which goes on to wait for another.
func TestBackupBearsWrongQuestions(t *testing.T) {
	begin := []pair.Message{&pair.SyncBegin{Sync: 1}}
	ask := func(r pair.Realm, first uint64) pair.Message {
		return &pair.Ask{Sync: 1, Realm: r, First: first, Count: pair.MaxAsk}
	}
	var many []pair.Message
	for i := range uint64(2 * maxAsks) {
		many = append(many, ask(pair.Memory, i), ask(pair.Disks, i))
	}
	for _, c := range []struct {
		name  string
		wrong []pair.Message
		says  string
	}{
		{"too many", append(begin, many...), "asks for more before it has had its answers"},
		{"before a transfer", []pair.Message{ask(pair.Memory, 0)}, "the peer breaks the protocol"},
		{"of another transfer", append(begin[:1:1], &pair.Ask{Sync: 2, Realm: pair.Disks, Count: 1}), "the peer breaks the protocol"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPair(t, pair.RuleReceived)
			p.detect = deadline
			backup := p.start(t, 1, "")
			l := p.lie(t, 0, backup.listen, pair.Running, 1)
			l.say(c.wrong...)
			backup.errs.text(t, c.says)
			for l.next() != nil {
			}
			guest := p.start(t, 0, "uart-echo", backup.listen)
			backup.errs.text(t, "state backup protected")
			guest.typed(t, "abc")
			guest.out.text(t, "ABC")
		})
	}
}
