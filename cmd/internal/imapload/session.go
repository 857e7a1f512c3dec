package imapload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-imap"
	"github.com/emersion/go-imap/client"
	"github.com/emersion/go-imap/commands"

	"tandem/cmd/internal/pause"
)

// session is one client. Its goroutine owns client and random.
type session struct {
	cfg    *Config
	number int
	client *client.Client
	random *rand.Rand
	meter  pause.Meter

	mu       sync.Mutex
	conn     net.Conn
	closed   bool
	messages []sent
	fetches  int
	searches int
	broken   error
}

// sent is a message that was sent to the server; its place is its number.
type sent struct {
	acknowledged bool
	uid          uint32 // 0 until it is known
}

func newSession(cfg *Config, number int) *session {
	return &session{cfg: cfg, number: number, random: cfg.random(number)}
}

// connect opens a connection as a session's user and selects the mailbox. The connection's end is the caller's business.
func connect(ctx context.Context, cfg *Config, number int) (*client.Client, net.Conn, error) {
	conn, err := cfg.Dial(ctx, "tcp", cfg.Address)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	c, err := newClient(conn, cfg.Patience)
	if err == nil {
		name, password := cfg.User(number)
		err = c.Login(name, password)
	}
	if err == nil {
		_, err = c.Select("INBOX", false)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, nil, errors.Join(err, conn.Close())
	}
	return c, conn, nil
}

// newClient waits for the server's greeting. The library gives this no time limit of its own.
func newClient(conn net.Conn, patience time.Duration) (*client.Client, error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	c, err := client.New(conn)
	if err != nil {
		return nil, err
	}
	c.ErrorLog = log.New(io.Discard, "", 0)
	c.Timeout = patience
	return c, conn.SetDeadline(time.Time{})
}

func (s *session) login(ctx context.Context) error {
	c, conn, err := connect(ctx, s.cfg, s.number)
	if err != nil {
		return fmt.Errorf("%s can't log in: %w", s.cfg.nameSession(s.number), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.client, s.conn = c, conn
	return nil
}

// close takes the session's connection away.
func (s *session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.conn != nil {
		_ = s.conn.Close()
	}
}

// run works until stop is closed or the session is broken.
func (s *session) run(stop <-chan struct{}) {
	defer s.close()
	// The first request comes at any time within the first pause, so that the sessions don't march in step.
	wait := time.Duration(s.random.Int64N(int64(s.cfg.Think) + 1))
	for {
		select {
		case <-stop:
			_ = s.client.Logout()
			return
		case <-s.client.LoggedOut():
			s.breakOff(errors.New("the server ended the session"))
			return
		case <-time.After(wait):
		}
		if err := s.request(); err != nil {
			s.breakOff(err)
			return
		}
		wait = s.cfg.Think/2 + time.Duration(s.random.Int64N(int64(s.cfg.Think)+1))
	}
}

func (s *session) breakOff(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken == nil {
		s.broken = err
	}
}

// request does one thing: half of all requests append, the others read what an earlier one has stored.
func (s *session) request() error {
	seq, known, ok := s.pick()
	switch {
	case !ok || s.random.IntN(2) == 0:
		return s.append()
	case known.uid == 0 || s.random.IntN(2) == 0:
		return s.search(seq, known)
	default:
		return s.fetch(seq, known)
	}
}

// pick chooses a message that the server has acknowledged.
func (s *session) pick() (seq int, m sent, ok bool) {
	if len(s.messages) == 0 {
		return 0, sent{}, false
	}
	seq = s.random.IntN(len(s.messages))
	return seq, s.messages[seq], s.messages[seq].acknowledged
}

func (s *session) id(seq int) string { return messageID(s.cfg.Run, s.number, seq) }

// append stores the next message.
func (s *session) append() error {
	s.mu.Lock()
	seq := len(s.messages)
	s.messages = append(s.messages, sent{})
	s.mu.Unlock()

	text := message(s.id(seq), s.cfg.BodyBytes)
	s.meter.Begin()
	status, err := s.client.Execute(&commands.Append{Mailbox: "INBOX", Message: strings.NewReader(text)}, nil)
	s.meter.End()
	if err == nil {
		err = status.Err()
	}
	if err != nil {
		return fmt.Errorf("append of %s: %w", s.id(seq), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages[seq] = sent{acknowledged: true, uid: appendUID(status)}
	return nil
}

// appendUID takes a message's number from the server's answer, "[APPENDUID validity uid]" (RFC 4315 §3); 0 if the server
// does not tell.
func appendUID(status *imap.StatusResp) uint32 {
	if status.Code != "APPENDUID" || len(status.Arguments) != 2 {
		return 0
	}
	uid, err := imap.ParseNumber(status.Arguments[1])
	if err != nil {
		return 0
	}
	return uid
}

// search finds a message by its identifier, and finds it once.
func (s *session) search(seq int, known sent) error {
	criteria := imap.NewSearchCriteria()
	criteria.Header.Set("Message-ID", s.id(seq))
	s.meter.Begin()
	found, err := s.client.UidSearch(criteria)
	s.meter.End()
	switch {
	case err != nil:
		return fmt.Errorf("search for %s: %w", s.id(seq), err)
	case len(found) != 1 || known.uid != 0 && found[0] != known.uid:
		return fmt.Errorf("search for %s, whose number is %d, finds %d", s.id(seq), known.uid, found)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages[seq].uid = found[0]
	s.searches++
	return nil
}

// fetch reads a message and compares it.
func (s *session) fetch(seq int, known sent) error {
	set := new(imap.SeqSet)
	set.AddNum(known.uid)
	got, err := s.read(set)
	switch {
	case err != nil:
		return fmt.Errorf("fetch of %s: %w", s.id(seq), err)
	case len(got) != 1:
		return fmt.Errorf("fetch of %s gives %d messages", s.id(seq), len(got))
	case got[0] != message(s.id(seq), s.cfg.BodyBytes):
		return fmt.Errorf("fetch of %s gives another content: %q", s.id(seq), got[0])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetches++
	return nil
}

func (s *session) read(set *imap.SeqSet) ([]string, error) {
	s.meter.Begin()
	defer s.meter.End()
	return readMessages(s.client, set)
}

// wholeMessage asks for all of a message without marking it as seen.
var wholeMessage = imap.BodySectionName{Peek: true}

// readMessages returns the texts of messages, by their numbers.
func readMessages(c *client.Client, set *imap.SeqSet) ([]string, error) {
	messages := make(chan *imap.Message)
	done := make(chan error, 1)
	go func() { done <- c.UidFetch(set, []imap.FetchItem{imap.FetchUid, wholeMessage.FetchItem()}, messages) }()
	var texts []string
	var failed error
	for m := range messages {
		literal := m.GetBody(&wholeMessage)
		if literal == nil {
			continue // an unasked-for update of flags
		}
		text, err := io.ReadAll(literal)
		if err != nil {
			failed = err
		}
		texts = append(texts, string(text))
	}
	return texts, errors.Join(<-done, failed)
}

func (s *session) state() SessionState {
	longest, pending := s.meter.Longest()
	s.mu.Lock()
	defer s.mu.Unlock()
	state := SessionState{Fetches: s.fetches, Searches: s.searches, Longest: longest, Pending: pending}
	for _, m := range s.messages {
		if m.acknowledged {
			state.Appends++
		}
	}
	if s.broken != nil {
		state.Broken = s.broken.Error()
	}
	return state
}
