package redischeck

import (
	"context"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// Verification tells what is in the server after a check.
type Verification struct {
	// Acknowledged is how many writes the server has acknowledged.
	Acknowledged int
	// Unacknowledged is how many writes are there whose client broke before it had the answer. They may be.
	Unacknowledged int
	// Faults are one line for each key that is not as it should be.
	Faults []string
}

// Verify reads all keys over a new connection. The check must be stopped.
func (c *Check) Verify(ctx context.Context) (*Verification, error) {
	conn := connection(&c.cfg)
	defer conn.Close()
	var v Verification
	for _, one := range c.clients {
		if err := one.verify(ctx, conn, &v); err != nil {
			return nil, fmt.Errorf("verifying the keys of client %d: %w", one.number+1, err)
		}
	}
	return &v, nil
}

func (c *client) verify(ctx context.Context, conn *redis.Client, v *Verification) error {
	register, err := number(conn.Get(ctx, c.key("register")))
	if err != nil {
		return err
	}
	v.compare(c.key("register"), int64(register), written{int64(c.register.sent), int64(c.register.acknowledged)})
	counter, err := number(conn.Get(ctx, c.key("counter")))
	if err != nil {
		return err
	}
	v.compare(c.key("counter"), int64(counter), c.counter)
	items, err := conn.LRange(ctx, c.key("list"), 0, -1).Result()
	if err != nil {
		return err
	}
	v.compare(c.key("list"), int64(len(items)), c.list)
	for i, item := range items {
		if item != strconv.Itoa(i+1) {
			v.Faults = append(v.Faults, fmt.Sprintf("%s has %q in place %d", c.key("list"), item, i+1))
			break
		}
	}
	return nil
}

// compare holds a key's last write that is there against what was sent.
func (v *Verification) compare(key string, got int64, w written) {
	v.Acknowledged += int(w.acknowledged)
	switch {
	case got < w.acknowledged:
		v.Faults = append(v.Faults, fmt.Sprintf("%s is at %d although %d was acknowledged", key, got, w.acknowledged))
	case got > w.sent:
		v.Faults = append(v.Faults, fmt.Sprintf("%s is at %d although only %d were sent", key, got, w.sent))
	case got > w.acknowledged:
		v.Unacknowledged++
	}
}
