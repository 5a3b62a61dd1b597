package agent

import (
	"context"
	"math/rand/v2"
	"time"
)

// The time between two attempts doubles from the first to the last. The last is
// short: while a restarted balancer does not know a backend, that one's open
// connections hang, and an attempt costs one SYN.
const (
	backoffFirst = 250 * time.Millisecond
	backoffLast  = 3 * time.Second
)

// backoff spaces attempts. Jitter keeps the agents of a restarted balancer
// from coming all at once.
type backoff struct{ next time.Duration }

func (b *backoff) reset() { b.next = 0 }

// delay is half to all of the current step.
func (b *backoff) delay() time.Duration {
	d := max(b.next, backoffFirst)
	b.next = min(2*d, backoffLast)
	return d/2 + rand.N(d/2)
}

// wait returns false when ctx ended before the time was up.
func (b *backoff) wait(ctx context.Context) bool {
	t := time.NewTimer(b.delay())
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// waitEither is wait for the end of either context.
func (b *backoff) waitEither(x, y context.Context) {
	ctx, cancel := context.WithCancel(x)
	defer cancel()
	defer context.AfterFunc(y, cancel)()
	b.wait(ctx)
}
