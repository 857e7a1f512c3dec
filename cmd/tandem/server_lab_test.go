package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap"
	"github.com/emersion/go-imap/client"
	"github.com/redis/go-redis/v9"

	"tandem/cmd/internal/labrun"
)

// Ports of the host that lead to the guest's servers.
const (
	redisPort = 16379
	imapPort  = 11143
)

// testServers runs Debian's own redis and dovecot in a guest, talks to them from outside, and does so again with another
// guest on the same disk.
func testServers(ctx context.Context, t *testing.T, e *labrun.Engine) {
	guest := bootServers(ctx, t, e)
	useRedis(ctx, t, e)
	useIMAP(ctx, t, e)
	powerOff(t, guest)

	guest = bootServers(ctx, t, e)
	findRedisData(ctx, t, e)
	findMail(ctx, t, e)
	powerOff(t, guest)
}

func bootServers(ctx context.Context, t *testing.T, e *labrun.Engine) *labrun.Session {
	t.Helper()
	s := start(ctx, t, e, labrun.Options{}, e.Tandem(), "run", "-k", e.Path("root-vmlinuz"), "-i", e.Path("root-initrd"),
		"-m", "256M", "-c", "quiet io_delay=none", "--disk", e.Images[0]+",overlay="+e.Path("servers.overlay"),
		"--net", fmt.Sprintf("user,forward=%d:6379,forward=%d:143", redisPort, imapPort))
	await(ctx, t, s.Out, "tandem: address 10.0.2.15/24 on eth0", "tandem: ready")
	return s
}

// powerOff lets the guest's init stop the servers and end the machine.
func powerOff(t *testing.T, s *labrun.Session) {
	t.Helper()
	enter(t, s, "\npoweroff\n")
	wantEnd(t, s, statusOK)
}

func redisClient(t *testing.T, e *labrun.Engine) *redis.Client {
	c := redis.NewClient(&redis.Options{
		Addr: fmt.Sprintf("127.0.0.1:%d", redisPort),
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return e.DialContext(ctx, network, addr)
		},
		DialTimeout: time.Minute, ReadTimeout: time.Minute, WriteTimeout: time.Minute, MaxRetries: -1,
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

const (
	listItems  = 500
	valueBytes = 100_000
)

func useRedis(ctx context.Context, t *testing.T, e *labrun.Engine) {
	t.Helper()
	c := redisClient(t, e)
	value := strings.Repeat("0123456789", valueBytes/10)
	if err := c.Set(ctx, "large", value, 0).Err(); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Get(ctx, "large").Result(); err != nil || got != value {
		t.Errorf("GET gives %d bytes and %v", len(got), err)
	}
	for want := range int64(20) {
		if n, err := c.Incr(ctx, "counter").Result(); err != nil || n != want+1 {
			t.Fatalf("INCR gives %d and %v, want %d", n, err, want+1)
		}
	}
	pipe := c.Pipeline()
	for i := range listItems {
		pipe.RPush(ctx, "list", i)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.BgSave(ctx).Err(); err != nil {
		t.Error(err)
	}
	info, err := c.Info(ctx, "server").Result()
	if err != nil || !strings.Contains(info, "os:Linux") {
		t.Errorf("INFO gives %q and %v", info, err)
	}
}

func findRedisData(ctx context.Context, t *testing.T, e *labrun.Engine) {
	t.Helper()
	c := redisClient(t, e)
	for { // it listens before it has loaded what it has saved
		err := c.Ping(ctx).Err()
		if err == nil {
			break
		}
		if !strings.Contains(err.Error(), "LOADING") {
			t.Fatal(err)
		}
	}
	if n, err := c.Incr(ctx, "counter").Result(); err != nil || n != 21 {
		t.Errorf("after the restart INCR gives %d and %v, want 21", n, err)
	}
	items, err := c.LRange(ctx, "list", 0, -1).Result()
	if err != nil || len(items) != listItems || items[listItems-1] != fmt.Sprint(listItems-1) {
		t.Errorf("after the restart the list has %d items (%v)", len(items), err)
	}
	if n, err := c.StrLen(ctx, "large").Result(); err != nil || n != valueBytes {
		t.Errorf("after the restart the value has %d bytes (%v)", n, err)
	}
}

func imapClient(ctx context.Context, t *testing.T, e *labrun.Engine) *client.Client {
	t.Helper()
	conn, err := e.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", imapPort))
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	c.Timeout = 2 * time.Minute
	if err := c.Login("tandem", "tandem"); err != nil {
		t.Fatal(err)
	}
	return c
}

// mail is the message that is stored; %d is its number.
const mail = "From: a@example.org\r\nTo: tandem@example.org\r\nSubject: message %d\r\nDate: Mon, 02 Jan 2006 15:04:05 +0000\r\n\r\nThe body of %[1]d.\r\n"

func useIMAP(ctx context.Context, t *testing.T, e *labrun.Engine) {
	t.Helper()
	c := imapClient(ctx, t, e)
	defer c.Logout()
	for i := range 3 {
		if err := c.Append("INBOX", nil, time.Time{}, strings.NewReader(fmt.Sprintf(mail, i))); err != nil {
			t.Fatal(err)
		}
	}
	wantMail(t, c, 3)
}

func findMail(ctx context.Context, t *testing.T, e *labrun.Engine) {
	t.Helper()
	c := imapClient(ctx, t, e)
	defer c.Logout()
	wantMail(t, c, 3)
}

// wantMail selects the box, searches it and fetches what it finds.
func wantMail(t *testing.T, c *client.Client, messages uint32) {
	t.Helper()
	box, err := c.Select("INBOX", false)
	if err != nil || box.Messages != messages {
		t.Fatalf("SELECT gives %+v and %v, want %d messages", box, err, messages)
	}
	criteria := imap.NewSearchCriteria()
	criteria.Header.Add("Subject", "message 1")
	found, err := c.Search(criteria)
	if err != nil || len(found) != 1 {
		t.Fatalf("SEARCH gives %v and %v, want one message", found, err)
	}
	set := new(imap.SeqSet)
	set.AddNum(found...)
	section := &imap.BodySectionName{}
	fetched := make(chan *imap.Message, messages)
	if err := c.Fetch(set, []imap.FetchItem{imap.FetchEnvelope, section.FetchItem()}, fetched); err != nil {
		t.Fatal(err)
	}
	message := <-fetched
	body := new(strings.Builder)
	if literal := message.GetBody(section); literal != nil {
		if _, err := io.Copy(body, literal); err != nil {
			t.Error(err)
		}
	}
	if want := fmt.Sprintf(mail, 1); message.Envelope.Subject != "message 1" || body.String() != want {
		t.Errorf("FETCH gives subject %q and %q, want %q", message.Envelope.Subject, body, want)
	}
}
