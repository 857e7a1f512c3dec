package imapload

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-imap"
	"github.com/emersion/go-imap/backend"
	"github.com/emersion/go-imap/server"
)

// fakeServer is an IMAP server with one mailbox a user, which can be told to misbehave.
type fakeServer struct {
	address string
	// keep decides what becomes of an appended text: the copies that are kept. Nil keeps one.
	keep func(text string) []string
	// spoil changes what is read. Nil changes nothing.
	spoil func(text string) string

	mu    sync.Mutex
	boxes map[string]*box
	conns []net.Conn
}

func startFake(t *testing.T) *fakeServer {
	t.Helper()
	f := &fakeServer{boxes: map[string]*box{}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.address = listener.Addr().String()
	s := server.New(f)
	s.AllowInsecureAuth = true
	s.ErrorLog = log.New(io.Discard, "", 0)
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }()
	t.Cleanup(func() {
		_ = s.Close()
		<-served
	})
	return f
}

// dial is the clients' way to the server.
func (f *fakeServer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err == nil {
		f.mu.Lock()
		f.conns = append(f.conns, conn)
		f.mu.Unlock()
	}
	return conn, err
}

// cut breaks the nth connection that was made.
func (f *fakeServer) cut(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = f.conns[n].Close()
}

// change gives the test all mailboxes, with no one else at them.
func (f *fakeServer) change(do func(texts []string) []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, b := range f.boxes {
		b.texts = do(b.texts)
	}
}

func (f *fakeServer) Login(_ *imap.ConnInfo, name, password string) (backend.User, error) {
	if password != "secret" {
		return nil, backend.ErrInvalidCredentials
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.boxes[name] == nil {
		f.boxes[name] = &box{server: f}
	}
	return &user{name: name, box: f.boxes[name]}, nil
}

// user implements what the load uses of backend.User.
type user struct {
	backend.User
	name string
	box  *box
}

func (u *user) Username() string                           { return u.name }
func (u *user) Logout() error                              { return nil }
func (u *user) GetMailbox(string) (backend.Mailbox, error) { return u.box, nil }

// box implements what the load uses of backend.Mailbox. A message's number is its place, from 1 on.
type box struct {
	backend.Mailbox
	server *fakeServer
	texts  []string
}

func (b *box) Name() string { return "INBOX" }

func (b *box) Status(items []imap.StatusItem) (*imap.MailboxStatus, error) {
	return imap.NewMailboxStatus("INBOX", items), nil
}

func (b *box) CreateMessage(_ []string, _ time.Time, body imap.Literal) error {
	text, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	kept := []string{string(text)}
	if b.server.keep != nil {
		kept = b.server.keep(string(text))
	}
	b.server.mu.Lock()
	defer b.server.mu.Unlock()
	b.texts = append(b.texts, kept...)
	return nil
}

func (b *box) SearchMessages(_ bool, criteria *imap.SearchCriteria) ([]uint32, error) {
	b.server.mu.Lock()
	defer b.server.mu.Unlock()
	var found []uint32
	for i, text := range b.texts {
		if idOf(text) == criteria.Header.Get("Message-ID") {
			found = append(found, uint32(i+1))
		}
	}
	return found, nil
}

func (b *box) ListMessages(_ bool, set *imap.SeqSet, items []imap.FetchItem, out chan<- *imap.Message) error {
	defer close(out)
	section, err := imap.ParseBodySectionName(items[1])
	if err != nil {
		return errors.New("unexpected items")
	}
	b.server.mu.Lock()
	texts := append([]string(nil), b.texts...)
	b.server.mu.Unlock()
	for i, text := range texts {
		number := uint32(i + 1)
		if !set.Contains(number) {
			continue
		}
		if b.server.spoil != nil {
			text = b.server.spoil(text)
		}
		m := imap.NewMessage(number, items)
		m.Uid = number
		m.Body[section] = bytes.NewReader([]byte(text))
		out <- m
	}
	return nil
}
