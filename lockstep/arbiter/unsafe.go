package arbiter

import (
	"context"
	"time"
)

// Unsafe is no arbiter at all: whoever asks wins. If the network between the hosts fails, both are live, and their disks
// and users part for good. It exists for those who have no third place and say so.
type Unsafe struct{}

// TestAndSet gives every term to whoever asks.
func (Unsafe) TestAndSet(_ context.Context, term uint64, owner string) (bool, Holder, error) {
	c, err := NewClaim("unsafe", term, owner, time.Time{})
	return err == nil, c.Holder, err
}

// Latest knows nothing.
func (Unsafe) Latest(context.Context) (Holder, error) { return Holder{}, nil }

// Identity is the same everywhere, since it stands for nothing.
func (Unsafe) Identity(context.Context) (string, error) { return "unsafe-none", nil }

// Close does nothing.
func (Unsafe) Close() error { return nil }
