package redischeck

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"tandem/cmd/internal/pause"
)

// client is one connection with its keys. Its goroutine owns random, counter and list.
type client struct {
	cfg    *Config
	number int
	conn   *redis.Client
	random *rand.Rand
	meter  pause.Meter

	register register
	counter  written
	list     written

	mu            sync.Mutex
	writes, reads int
	broken        error
}

// written counts the writes to a key that only its writer reads.
type written struct{ sent, acknowledged int64 }

// errSecond is a connection's end: there is no second one.
var errSecond = errors.New("the connection broke, and a client has only one")

// once dials one time.
func once(dial Dialer) Dialer {
	var mu sync.Mutex
	dialled := false
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		if dialled {
			return nil, errSecond
		}
		dialled = true
		return dial(ctx, network, address)
	}
}

// connection is a library's client that has one connection and repeats nothing.
func connection(cfg *Config) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr: cfg.Address, Dialer: once(cfg.Dial), Protocol: 2, PoolSize: 1, MaxRetries: -1, DialerRetries: 1,
		DialTimeout: cfg.Patience, ReadTimeout: cfg.Patience, WriteTimeout: cfg.Patience, PoolTimeout: cfg.Patience,
		ConnMaxIdleTime: -1, ContextTimeoutEnabled: true, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

func newClient(cfg *Config, number int) *client {
	return &client{cfg: cfg, number: number, conn: connection(cfg), random: rand.New(rand.NewPCG(cfg.Seed, uint64(number)))}
}

// loadingEvery is how often a server that is not ready is asked again.
const loadingEvery = 100 * time.Millisecond

// connect waits until the server has loaded what it had saved: it answers before that, but with errors.
func (c *client) connect(ctx context.Context) error {
	for {
		err := c.conn.Ping(ctx).Err()
		if err == nil || !redis.HasErrorPrefix(err, "LOADING") {
			return err
		}
		select {
		case <-time.After(loadingEvery):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c *client) key(kind string) string {
	return fmt.Sprintf("check:%s:%d:%s", c.cfg.Run, c.number, kind)
}

// run works until stop is closed or the client is broken.
func (c *client) run(ctx context.Context, stop <-chan struct{}, neighbour *client) {
	wait := time.Duration(c.random.Int64N(int64(c.cfg.Think) + 1))
	for {
		select {
		case <-stop:
			return
		case <-time.After(wait):
		}
		if err := c.request(ctx, neighbour); err != nil {
			c.mu.Lock()
			c.broken = err
			c.mu.Unlock()
			return
		}
		wait = c.cfg.Think/2 + time.Duration(c.random.Int64N(int64(c.cfg.Think)+1))
	}
}

// request does one thing at random: three of five requests write.
func (c *client) request(ctx context.Context, neighbour *client) error {
	switch c.random.IntN(5) {
	case 0:
		return c.set(ctx)
	case 1:
		return c.increment(ctx)
	case 2:
		return c.push(ctx)
	case 3:
		return c.get(ctx, c)
	default:
		return c.get(ctx, neighbour)
	}
}

func (c *client) answered(n *int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*n++
}

func (c *client) set(ctx context.Context) error {
	value := c.register.send()
	c.meter.Begin()
	err := c.conn.Set(ctx, c.key("register"), value, 0).Err()
	c.meter.End()
	if err != nil {
		return fmt.Errorf("SET %d: %w", value, err)
	}
	c.register.acknowledge()
	c.answered(&c.writes)
	return nil
}

func (c *client) increment(ctx context.Context) error {
	return c.write("INCR", &c.counter, func() (int64, error) { return c.conn.Incr(ctx, c.key("counter")).Result() })
}

func (c *client) push(ctx context.Context) error {
	return c.write("RPUSH", &c.list, func() (int64, error) { return c.conn.RPush(ctx, c.key("list"), c.list.sent).Result() })
}

// write makes the next write of a key whose every answer is known.
func (c *client) write(name string, key *written, do func() (int64, error)) error {
	key.sent++
	c.meter.Begin()
	got, err := do()
	c.meter.End()
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case got < key.sent:
		return fmt.Errorf("%s number %d gives %d: a write is lost or rolled back", name, key.sent, got)
	case got > key.sent:
		return fmt.Errorf("%s number %d gives %d: a write was done twice", name, key.sent, got)
	}
	key.acknowledged = key.sent
	c.answered(&c.writes)
	return nil
}

// get reads the register of a client, maybe its own.
func (c *client) get(ctx context.Context, of *client) error {
	least := of.register.least()
	c.meter.Begin()
	got, err := number(c.conn.Get(ctx, of.key("register")))
	c.meter.End()
	if err == nil {
		err = of.register.read(least, got)
	}
	if err != nil {
		return fmt.Errorf("GET %s: %w", of.key("register"), err)
	}
	c.answered(&c.reads)
	return nil
}

// number is a key's value, 0 if there is no such key.
func number(cmd *redis.StringCmd) (uint64, error) {
	text, err := cmd.Result()
	if errors.Is(err, redis.Nil) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(text, 10, 64)
}

func (c *client) state() ClientState {
	longest, pending := c.meter.Longest()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := ClientState{Writes: c.writes, Reads: c.reads, Longest: longest, Pending: pending}
	if c.broken != nil {
		s.Broken = c.broken.Error()
	}
	return s
}
