package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// entry is a target with what the loop knows of it. kicked and status are
// guarded by Loop.mu; the rest is the loop's goroutine's.
type entry[S any] struct {
	target Target[S]

	want     *S        // of the last Add that succeeded and still holds
	known    *S        // what the next Add gets as was; nil after a failure
	pruned   *S        // the machine had this and nothing besides before the last Add
	clean    *S        // the state that the last Prune has made
	failed   *S        // the last failure was at this one
	unpruned bool      // the last Prune failed
	tried    time.Time // the last failure
	retry    time.Time // nothing before this; zero when the target works
	verify   time.Time // the next Verify
	drift    error     // found by Verify, not repaired yet

	kicked   time.Time // when a Kick is to be followed; zero: none
	repaired time.Time // when repairs have been paid for, one each Config.FirstRetry
	spoken   bool      // the first Add has succeeded
	status   Status
}

// pass brings every target as far as it goes now and returns when the next
// pass is due.
func (l *Loop[S]) pass(ctx context.Context) time.Time {
	l.mu.Lock()
	want := l.want
	l.mu.Unlock()
	if want == nil {
		return time.Now().Add(l.cfg.Verify)
	}
	for _, e := range l.entries {
		l.visit(ctx, e, want)
	}
	if l.ready(want) {
		for _, e := range slices.Backward(l.entries) {
			l.prune(ctx, e, want)
		}
	}
	return l.next(want)
}

func (l *Loop[S]) visit(ctx context.Context, e *entry[S], want *S) {
	kicked := l.takeKick(e)
	switch {
	case ctx.Err() != nil:
	case e.want != want && l.due(e, want, kicked):
		l.add(ctx, e, want)
	case e.want == want && (kicked || !time.Now().Before(e.verify)):
		l.check(ctx, e, want)
	}
}

// takeKick reports whether a kick is due, and takes it.
func (l *Loop[S]) takeKick(e *entry[S]) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.kicked.IsZero() || time.Now().Before(e.kicked) {
		return false
	}
	e.kicked = time.Time{}
	return true
}

// due reports whether a target may be called now. A kick, and a state that the
// target has not failed at yet, cut the back-off down to the first one.
func (l *Loop[S]) due(e *entry[S], want *S, kicked bool) bool {
	if kicked || e.failed != want {
		e.retry = earlier(e.retry, e.tried.Add(l.cfg.FirstRetry))
	}
	return !time.Now().Before(e.retry)
}

func (l *Loop[S]) add(ctx context.Context, e *entry[S], want *S) {
	if err := e.target.Add(ctx, e.known, want); err != nil {
		e.want, e.known, e.pruned, e.clean = nil, nil, nil, nil
		l.fail(ctx, e, want, err)
		return
	}
	e.pruned, e.clean = e.clean, nil
	e.want, e.known = want, want
	if e.drift != nil {
		if err := e.target.Verify(ctx, want); err != nil {
			e.want, e.known, e.pruned = nil, nil, nil
			l.fail(ctx, e, want, fmt.Errorf("repaired in vain: %w", err))
			return
		}
	}
	l.succeed(e, func(s *Status) { s.Revision, e.spoken = l.cfg.Revision(want), true })
	l.repaired(e)
}

// check verifies a target and repairs it at once.
func (l *Loop[S]) check(ctx context.Context, e *entry[S], want *S) {
	err := e.target.Verify(ctx, want)
	switch {
	case errors.Is(err, ErrDrift):
		e.drift, e.want, e.known, e.clean = err, nil, nil, nil
		l.add(ctx, e, want)
	case err != nil:
		l.fail(ctx, e, want, err)
		e.verify = e.retry
	default:
		l.succeed(e, func(*Status) {})
	}
}

// ready reports whether pruning is allowed.
func (l *Loop[S]) ready(want *S) bool {
	for _, e := range l.entries {
		if e.want != want {
			return false
		}
	}
	return l.cfg.Complete(want)
}

func (l *Loop[S]) prune(ctx context.Context, e *entry[S], want *S) {
	if e.clean == want || ctx.Err() != nil || time.Now().Before(e.retry) {
		return
	}
	if err := e.target.Prune(ctx, e.pruned, want); err != nil {
		e.known, e.pruned, e.unpruned = nil, nil, true
		l.fail(ctx, e, want, err)
		return
	}
	e.clean, e.unpruned = want, false
	l.succeed(e, func(*Status) {})
}

// next returns when the earliest call is due.
func (l *Loop[S]) next(want *S) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := time.Now().Add(l.cfg.Verify)
	for _, e := range l.entries {
		if e.want == want {
			at = earlier(at, e.verify)
		}
		if !e.retry.IsZero() {
			at = earlier(at, e.retry)
		}
		if !e.kicked.IsZero() {
			at = earlier(at, e.kicked)
		}
	}
	return at
}
