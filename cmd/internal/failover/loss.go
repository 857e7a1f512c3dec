package failover

import (
	"context"
	"fmt"
	"slices"
	"time"

	"tandem/cmd/internal/imapload"
	"tandem/vmm/protect"
)

// Loss is what the loss of a host looked like.
type Loss struct {
	Lost, Survivor string
	// Failover is the survivor's account.
	Failover protect.Failover
	// Pauses are the clients' longest, each from the loss until it had an answer again.
	Pauses []time.Duration
	// Returned is how long the lost host took to boot, Protected how long after its backup was started the guest was
	// protected again, and Transfer the state transfer in it.
	Returned, Protected time.Duration
	Transfer            protect.Transfer
}

// Lose takes the power of the host that runs the guest, and watches the other take over until each session has had an answer.
func (p *Pair) Lose(ctx context.Context, primary *Side, load *imapload.Load) (*Loss, error) {
	survivor := p.Other(primary)
	// It may be without its backup for a moment: a busy machine can keep one host silent for longer than the other waits.
	if _, err := p.AwaitProtected(ctx, primary); err != nil {
		return nil, err
	}
	before := load.Snapshot()
	load.Mark()
	primary.KillHost()
	status, err := p.AwaitTakeover(ctx, survivor)
	if err != nil {
		return nil, err
	}
	loss := &Loss{Lost: primary.Name, Survivor: survivor.Name, Failover: *status.LastFailover}
	loss.Pauses, err = p.awaitAnswers(ctx, load, &before)
	return loss, err
}

// awaitAnswers waits until each session that is not broken has been answered since before, and returns how long each one's
// longest pause was when it had been: what the guest is busy with later is another matter.
func (p *Pair) awaitAnswers(ctx context.Context, load *imapload.Load, before *imapload.Snapshot) ([]time.Duration, error) {
	pauses := make([]time.Duration, len(before.Sessions))
	answered := make([]bool, len(before.Sessions))
	for {
		waiting := 0
		for i, s := range load.Snapshot().Sessions {
			switch {
			case answered[i]:
			case s.Broken == "" && s.Requests() == before.Sessions[i].Requests():
				waiting++
			default:
				answered[i], pauses[i] = true, s.Longest
			}
		}
		if waiting == 0 {
			return pauses, nil
		}
		if err := p.wait(ctx, fmt.Sprintf("%d sessions are not answered", waiting)); err != nil {
			return nil, err
		}
	}
}

// Return boots the lost host, which becomes the survivor's backup, and waits until the guest is protected.
func (p *Pair) Return(ctx context.Context, lost *Side, loss *Loss) error {
	start := time.Now()
	if err := lost.Boot(ctx); err != nil {
		return err
	}
	loss.Returned = time.Since(start)
	start = time.Now()
	if err := lost.Back(ctx); err != nil {
		return err
	}
	status, err := p.AwaitProtected(ctx, p.Other(lost))
	if err != nil {
		return err
	}
	loss.Protected = time.Since(start)
	if status.LastTransfer != nil {
		loss.Transfer = *status.LastTransfer
	}
	return nil
}

// Quantile returns the value that a share q of all do not exceed; 0 without any.
func Quantile(values []time.Duration, q float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
