package reconcile

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// ErrStopped is returned by Wait when the loop has ended.
var ErrStopped = errors.New("reconcile loop has ended")

// Loop brings targets to the newest state. Run is called once; the other
// methods may be called by anyone at any time.
type Loop[S any] struct {
	cfg     Config[S]
	entries []*entry[S]
	wake    chan struct{} // capacity 1
	passed  atomic.Pointer[time.Time]

	mu      sync.Mutex
	want    *S
	changed chan struct{} // closed and replaced whenever a status changed
	stopped bool
}

// New returns a loop that has no state yet.
func New[S any](cfg Config[S]) *Loop[S] {
	l := &Loop[S]{cfg: cfg.withDefaults(), wake: make(chan struct{}, 1), changed: make(chan struct{})}
	for _, t := range cfg.Targets {
		l.entries = append(l.entries, &entry[S]{target: t, status: Status{Target: t.String()}})
	}
	return l
}

// Set makes want the desired state, which must not be nil. It does not block;
// of several states that come while the loop is busy only the newest counts.
func (l *Loop[S]) Set(want *S) {
	l.mu.Lock()
	l.want = want
	l.mu.Unlock()
	l.signal()
}

// Kick makes the loop verify the named target, and retry it if it failed, within
// milliseconds; "" is all targets. It does not block; bursts are coalesced.
// After some repairs the next one takes Config.FirstRetry, for there may be
// somebody who changes things back.
func (l *Loop[S]) Kick(target string) {
	l.mu.Lock()
	for _, e := range l.entries {
		if (target == "" || target == e.status.Target) && e.kicked.IsZero() {
			e.kicked = later(time.Now().Add(settle), e.repaired.Add(-repairsAtOnce*l.cfg.FirstRetry))
		}
	}
	l.mu.Unlock()
	l.signal()
}

func (l *Loop[S]) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Run works until ctx ends, which is no error. It leaves the machine as it is.
func (l *Loop[S]) Run(ctx context.Context) error {
	defer l.stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.wake:
		case <-timer.C:
		}
		timer.Reset(time.Until(l.pass(ctx)))
		now := time.Now()
		l.passed.Store(&now)
	}
}

// Passed returns when the loop had last seen to all targets, the zero time before it
// has. It does so when it is kicked, or has something to do.
func (l *Loop[S]) Passed() time.Time {
	if at := l.passed.Load(); at != nil {
		return *at
	}
	return time.Time{}
}

func (l *Loop[S]) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	close(l.changed)
}

// Wait returns when every target has added the state of that revision, or a
// newer one. It returns early with ctx's error, or ErrStopped after Run.
func (l *Loop[S]) Wait(ctx context.Context, revision uint64) error {
	for {
		l.mu.Lock()
		done, stopped, changed := l.has(revision), l.stopped, l.changed
		l.mu.Unlock()
		switch {
		case done:
			return nil
		case stopped:
			return ErrStopped
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// Settle returns when Wait does, or with the error of a target that has failed for
// longer than patience.
func (l *Loop[S]) Settle(ctx context.Context, revision uint64, patience time.Duration) error {
	for {
		soon, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		err := l.Wait(soon, revision)
		cancel()
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		for _, s := range l.Status() {
			if s.Error != nil && time.Since(s.Since) > patience {
				return fmt.Errorf("%s: %w", s.Target, s.Error)
			}
		}
	}
}

func (l *Loop[S]) has(revision uint64) bool {
	for _, e := range l.entries {
		if !e.spoken || e.status.Revision < revision {
			return false
		}
	}
	return true
}

// Status returns the state of every target, in their order.
func (l *Loop[S]) Status() []Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Status, len(l.entries))
	for i, e := range l.entries {
		out[i] = e.status
	}
	return out
}

// update changes statuses under the lock and wakes those who wait for them.
func (l *Loop[S]) update(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
	close(l.changed)
	l.changed = make(chan struct{})
}
