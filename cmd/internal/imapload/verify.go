package imapload

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/emersion/go-imap"
)

// Verification tells what is in the mailboxes after a load.
type Verification struct {
	// Acknowledged is how many messages the server has acknowledged, Found how many of them are there as they should be.
	Acknowledged, Found int
	// Unacknowledged is how many messages are there whose append was not answered before its session broke. They may be.
	Unacknowledged int
	// Faults are one line for each message that is lost, there twice, or wrong.
	Faults []string
}

// Verify reads each session's mailbox over a new connection. The load must be stopped.
func (l *Load) Verify(ctx context.Context) (*Verification, error) {
	var v Verification
	for _, s := range l.sessions {
		texts, err := s.mailbox(ctx)
		if err != nil {
			return nil, fmt.Errorf("verifying the mailbox of %s: %w", l.cfg.nameSession(s.number), err)
		}
		s.compare(texts, &v)
	}
	return &v, nil
}

// mailbox returns all messages that are in the session's mailbox.
func (s *session) mailbox(ctx context.Context) ([]string, error) {
	c, conn, err := connect(ctx, s.cfg, s.number)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	all := new(imap.SeqSet)
	all.AddRange(1, 0) // "1:*"
	texts, err := readMessages(c, all)
	if err != nil {
		return nil, err
	}
	_ = c.Logout()
	return texts, nil
}

// compare holds what is in the mailbox against what was sent. Messages of other runs are nobody's business.
func (s *session) compare(texts []string, v *Verification) {
	copies, spoilt := map[string]int{}, map[string]bool{}
	for _, text := range texts {
		id := idOf(text)
		if !strings.HasPrefix(id, s.cfg.Run+".") || !strings.HasSuffix(id, "@"+idHost) {
			if id == "" {
				v.Faults = append(v.Faults, fmt.Sprintf("there is a message without an identifier: %.200q", text))
			}
			continue
		}
		copies[id]++
		if text != message(id, s.cfg.BodyBytes) {
			spoilt[id] = true
			v.Faults = append(v.Faults, fmt.Sprintf("message %s is there with another content: %q", id, text))
		}
	}
	for seq, m := range s.messages {
		id := s.id(seq)
		n := copies[id]
		delete(copies, id)
		if m.acknowledged {
			v.Acknowledged++
		}
		switch {
		case n > 1:
			v.Faults = append(v.Faults, fmt.Sprintf("message %s is there %d times", id, n))
		case spoilt[id]: // said already
		case n == 1 && m.acknowledged:
			v.Found++
		case n == 1:
			v.Unacknowledged++
		case m.acknowledged:
			v.Faults = append(v.Faults, fmt.Sprintf("message %s was acknowledged and is not there", id))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(copies)) {
		v.Faults = append(v.Faults, fmt.Sprintf("message %s is there and was never sent here", id))
	}
}

// idOf returns the identifier in a message's header, without brackets; "" if there is none.
func idOf(text string) string {
	header, _, _ := strings.Cut(text, "\r\n\r\n")
	for line := range strings.SplitSeq(header, "\r\n") {
		if id, ok := strings.CutPrefix(line, "Message-ID: <"); ok {
			return strings.TrimSuffix(id, ">")
		}
	}
	return ""
}
