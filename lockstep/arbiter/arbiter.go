package arbiter

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"
)

var (
	// ErrUnreachable says that the arbiter gave no answer in time: nobody knows who holds the term. Ask again, with the same
	// owner, before doing anything else.
	ErrUnreachable = errors.New("the arbiter is unreachable")
	// ErrCorrupt says that what the arbiter keeps is no claim. A person must look: no term is given until then.
	ErrCorrupt = errors.New("the arbiter's record is damaged")
	// ErrWrongArbiter says that the place is no arbiter, or not the one of before: shared storage that is not mounted, say.
	ErrWrongArbiter = errors.New("not the arbiter")
)

// Holder is who holds a guest's latest term.
type Holder struct {
	Term  uint64
	Owner string
	// At is when the claim was made, by the owner's clock, in seconds; for people.
	At time.Time
}

// Arbiter gives each term of one guest to one owner.
type Arbiter interface {
	// TestAndSet claims a term (from 1) for an owner. Won or not, holder is who has the guest's latest term.
	TestAndSet(ctx context.Context, term uint64, owner string) (won bool, holder Holder, err error)
	// Latest returns the holder of the guest's latest term; the zero Holder if no term was ever claimed.
	Latest(ctx context.Context) (Holder, error)
	// Identity names the arbiter and the guest: it is the same for all who ask the same one, and for nobody else. A question
	// after it to an arbiter that is no longer the same ends with ErrWrongArbiter.
	Identity(ctx context.Context) (string, error)
	Close() error
}

// maxNameBytes bounds the names of guests and owners.
const maxNameBytes = 64

// name is safe as a file's name and as a part of a key.
var name = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// CheckGuest tells whether a guest's name can be used with an arbiter.
func CheckGuest(guest string) error { return checkName("guest", guest) }

func checkName(what, s string) error {
	if !name.MatchString(s) {
		return fmt.Errorf("%s name %q: use up to %d letters, digits, dots, dashes and underscores", what, s, maxNameBytes)
	}
	return nil
}

// Claim is one guest's term in an owner's hands, as it is kept.
type Claim struct {
	Guest string
	Holder
}

// NewClaim checks what an owner claims. The time is cut to seconds in UTC, as it is kept.
func NewClaim(guest string, term uint64, owner string, at time.Time) (Claim, error) {
	c := Claim{Guest: guest, Holder: Holder{Term: term, Owner: owner, At: at.UTC().Truncate(time.Second)}}
	if term == 0 {
		return c, errors.New("term 0 can't be claimed: a guest's first term is 1")
	}
	return c, errors.Join(checkName("guest", guest), checkName("owner", owner))
}

// Settle judges a claim by the latest one that is kept: done tells that the outcome is known already.
func (c Claim) Settle(latest Holder) (won, done bool) {
	switch {
	case latest.Term > c.Term:
		return false, true
	case latest.Term == c.Term:
		return latest.Owner == c.Owner, true
	}
	return false, false
}
