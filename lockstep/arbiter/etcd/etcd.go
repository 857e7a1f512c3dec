// Package etcd is an arbiter in etcd, by its client v3.
//
// # Contract
//
// It is an arbiter.Arbiter. A guest's latest claim is the value of one key; a claim replaces it in a transaction that
// holds only if the key has not changed since it was read (etcd API "Txn", compare on the key's revision). The read is
// linearizable, so both halves need a majority of the cluster: a member that is cut off gives no term.
//
// The claim itself has no lease. A key that expired would let a host that comes back from a long outage win a term that
// another has held since. A lease stands behind something else: Announce keeps a key that says that an owner is there, and
// that goes by itself when its host dies. It is for people and for status; it gives nobody a term.
//
// It is apart from package arbiter because the client and gRPC add 10 MB to a program that links them.
//
// The first Identity gives the cluster a random mark, which every later question compares. The cluster's own number won't
// do: two hosts that each run an etcd of the same settings get the same, and both would win.
//
// # Format
//
//	tandem/arbiter/id                     the cluster's mark
//	tandem/arbiter/GUEST/claim            the latest claim, in package arbiter's form
//	tandem/arbiter/GUEST/present/OWNER    a mark of presence, under a lease
package etcd

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tandem/lockstep/arbiter"
)

const (
	root = "tandem/arbiter/"
	// DefaultTimeout bounds a question whose context has no deadline of its own.
	DefaultTimeout = 2 * time.Second
	dialTimeout    = 2 * time.Second
)

// Config says how to reach a cluster.
type Config struct {
	Endpoints []string // "http://host:2379", or https
	// TLS is for https endpoints; nil trusts the host's authorities.
	TLS                *tls.Config
	Username, Password string // empty: none
}

// Arbiter is a guest's arbiter in a cluster.
type Arbiter struct {
	client *clientv3.Client
	guest  string
	now    func() time.Time
	mark   atomic.Pointer[string] // the cluster's; nil until Identity has asked
}

var _ arbiter.Arbiter = (*Arbiter)(nil)

// Open prepares to ask a cluster; that it cannot be reached shows when it is asked.
func Open(config Config, guest string) (*Arbiter, error) {
	if err := arbiter.CheckGuest(guest); err != nil {
		return nil, err
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: config.Endpoints, TLS: config.TLS, Username: config.Username, Password: config.Password,
		DialTimeout: dialTimeout, DialKeepAliveTime: dialTimeout, DialKeepAliveTimeout: dialTimeout,
		Logger: zap.NewNop(),
	})
	if err != nil {
		return nil, fmt.Errorf("preparing to ask etcd: %w", named(err))
	}
	return &Arbiter{client: client, guest: guest, now: time.Now}, nil
}

// Close ends the connections. A mark of presence goes when its lease ends.
func (a *Arbiter) Close() error { return a.client.Close() }

func (a *Arbiter) claimKey() string { return root + a.guest + "/claim" }

func withDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, DefaultTimeout)
}

const (
	markKey = root + "id"
	// maxMarkBytes bounds what another program may have put there.
	maxMarkBytes = 64
)

// Identity names the cluster by its mark, and makes that if there is none.
func (a *Arbiter) Identity(ctx context.Context) (string, error) {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	mark := rand.Text()
	r, err := a.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(markKey), "=", 0)).
		Then(clientv3.OpPut(markKey, mark)).
		Else(clientv3.OpGet(markKey)).
		Commit()
	if err != nil {
		return "", named(err)
	}
	if !r.Succeeded {
		kvs := r.Responses[0].GetResponseRange().Kvs
		if len(kvs) != 1 || len(kvs[0].Value) == 0 || len(kvs[0].Value) > maxMarkBytes {
			return "", fmt.Errorf("%w: etcd's key %s", arbiter.ErrCorrupt, markKey)
		}
		mark = string(kvs[0].Value)
	}
	if known := a.mark.Swap(&mark); known != nil && *known != mark {
		a.mark.Store(known)
		return "", a.another()
	}
	return arbiter.SpecEtcd + ":" + mark + "/" + a.guest, nil
}

func (a *Arbiter) another() error {
	return fmt.Errorf("%w: etcd is another cluster than before, or has lost its data", arbiter.ErrWrongArbiter)
}

// Latest reads the latest claim.
func (a *Arbiter) Latest(ctx context.Context) (arbiter.Holder, error) {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	h, _, err := a.latest(ctx)
	return h, err
}

// latest returns the holder, and the revision of the key that names it: 0 if there is none.
func (a *Arbiter) latest(ctx context.Context) (arbiter.Holder, int64, error) {
	r, err := a.client.Txn(ctx).Then(clientv3.OpGet(markKey), clientv3.OpGet(a.claimKey())).Commit()
	if err != nil {
		return arbiter.Holder{}, 0, named(err)
	}
	mark, claim := r.Responses[0].GetResponseRange().Kvs, r.Responses[1].GetResponseRange().Kvs
	if known := a.mark.Load(); known != nil && (len(mark) == 0 || string(mark[0].Value) != *known) {
		return arbiter.Holder{}, 0, a.another()
	}
	if len(claim) == 0 {
		return arbiter.Holder{}, 0, nil
	}
	c, err := arbiter.DecodeClaim(claim[0].Value, a.guest)
	if err != nil {
		return arbiter.Holder{}, 0, fmt.Errorf("etcd's key %s: %w", a.claimKey(), err)
	}
	return c.Holder, claim[0].ModRevision, nil
}

// TestAndSet claims a term.
func (a *Arbiter) TestAndSet(ctx context.Context, term uint64, owner string) (won bool, holder arbiter.Holder, err error) {
	c, err := arbiter.NewClaim(a.guest, term, owner, a.now())
	if err != nil {
		return false, arbiter.Holder{}, err
	}
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	for {
		latest, revision, err := a.latest(ctx)
		if err != nil {
			return false, arbiter.Holder{}, err
		}
		if won, done := c.Settle(latest); done {
			return won, latest, nil
		}
		unchanged := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(a.claimKey()), "=", revision)}
		if known := a.mark.Load(); known != nil {
			unchanged = append(unchanged, clientv3.Compare(clientv3.Value(markKey), "=", *known))
		}
		r, err := a.client.Txn(ctx).
			If(unchanged...).
			Then(clientv3.OpPut(a.claimKey(), string(c.Encode()))).
			Commit()
		if err != nil {
			return false, arbiter.Holder{}, named(err)
		}
		if r.Succeeded {
			return true, c.Holder, nil
		}
		// Another claim came between. It is this term's or a later one's, or an earlier one's: look again.
	}
}

// Announce keeps a mark that an owner is there until the context ends. If the host dies or is cut off, the mark goes after
// the lease's time. The channel is closed when the mark can no longer be kept; announcing again is the caller's choice.
func (a *Arbiter) Announce(ctx context.Context, owner string, lease time.Duration) (<-chan struct{}, error) {
	if _, err := arbiter.NewClaim(a.guest, 1, owner, a.now()); err != nil {
		return nil, err
	}
	granting, cancel := withDeadline(ctx)
	defer cancel()
	granted, err := a.client.Grant(granting, max(1, int64(lease/time.Second)))
	if err != nil {
		return nil, named(err)
	}
	if _, err := a.client.Put(granting, a.presenceKey(owner), "", clientv3.WithLease(granted.ID)); err != nil {
		return nil, named(err)
	}
	kept, err := a.client.KeepAlive(ctx, granted.ID)
	if err != nil {
		return nil, named(err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		for range kept {
		}
	}()
	return over, nil
}

// Present tells whether an owner's mark is there.
func (a *Arbiter) Present(ctx context.Context, owner string) (bool, error) {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	r, err := a.client.Get(ctx, a.presenceKey(owner), clientv3.WithCountOnly())
	if err != nil {
		return false, named(err)
	}
	return r.Count > 0, nil
}

func (a *Arbiter) presenceKey(owner string) string { return root + a.guest + "/present/" + owner }

// named tells an answer that did not come from one that did and says no, such as a wrong password.
func named(err error) error {
	for _, unanswered := range []error{context.DeadlineExceeded, context.Canceled, clientv3.ErrNoAvailableEndpoints} {
		if errors.Is(err, unanswered) {
			return fmt.Errorf("%w: etcd: %w", arbiter.ErrUnreachable, err)
		}
	}
	code := status.Code(err)
	var refused rpctypes.EtcdError
	if errors.As(err, &refused) {
		code = refused.Code()
	}
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return fmt.Errorf("%w: etcd: %w", arbiter.ErrUnreachable, err)
	}
	return fmt.Errorf("etcd refuses: %w", err)
}
