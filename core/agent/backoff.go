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

// backoff spaces attempts. Jitter over almost the whole step keeps the agents of
// a restarted balancer from coming all at once: they all lost it at one moment.
type backoff struct{ next time.Duration }

func (b *backoff) reset() { b.next = 0 }

// delay returns an eighth to all of the current step.
func (b *backoff) delay() time.Duration {
	d := max(b.next, backoffFirst)
	b.next = min(2*d, backoffLast)
	return d/8 + rand.N(7*d/8)
}

// wait returns false when ctx ended before the time was up.
func (b *backoff) wait(ctx context.Context) bool { return sleep(ctx, b.delay(), nil) }

// waitOr returns wait, but not beyond the first step once early is closed: there is
// a reason to try again.
func (b *backoff) waitOr(ctx context.Context, early <-chan struct{}) bool {
	d := b.delay()
	first := min(d, backoffFirst)
	return sleep(ctx, first, nil) && sleep(ctx, d-first, early)
}

// sleep returns false when ctx ended before the time was up or early closed.
func sleep(ctx context.Context, d time.Duration, early <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-early:
		return true
	case <-t.C:
		return true
	}
}
