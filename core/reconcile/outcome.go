package reconcile

import (
	"context"
	"time"
)

// fail records that a target failed and sets its back-off. An error that the
// end of ctx caused is not the target's.
func (l *Loop[S]) fail(ctx context.Context, e *entry[S], want *S, err error) {
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	wait := l.backoff(e.status.Retries)
	e.failed, e.tried, e.retry = want, now, now.Add(wait)
	first := e.status.Error == nil
	l.update(func() {
		if first {
			e.status.Since = now
		}
		e.status.Error = err
		e.status.Retries++
	})
	if !first {
		l.cfg.Log.Debug("target failed again", "target", e.status.Target, "err", err, "retry", wait)
		return
	}
	l.cfg.Log.Error("target failed, will be retried", "target", e.status.Target, "err", err)
	l.cfg.OnEvent(Event{Failure, e.status.Target, err.Error(), err})
}

// backoff returns the pause after a failure that n others came before.
func (l *Loop[S]) backoff(n int) time.Duration {
	return min(l.cfg.FirstRetry<<min(n, 20), l.cfg.MaxRetry)
}

// succeed records that a target works. One whose Prune has failed works again
// only when a Prune has succeeded.
func (l *Loop[S]) succeed(e *entry[S], change func(*Status)) {
	now := time.Now()
	e.verify = now.Add(l.cfg.Verify)
	if e.unpruned {
		l.update(func() { change(&e.status) })
		return
	}
	e.failed, e.retry = nil, time.Time{}
	recovered, first := e.status.Error != nil, e.status.Since.IsZero()
	l.update(func() {
		if recovered || first {
			e.status.Since = now
		}
		e.status.Error, e.status.Retries = nil, 0
		change(&e.status)
	})
	if recovered {
		l.cfg.Log.Info("target works again", "target", e.status.Target)
		l.cfg.OnEvent(Event{Recovery, e.status.Target, "works again", nil})
	}
}

// repaired reports a drift that is no more.
func (l *Loop[S]) repaired(e *entry[S]) {
	if e.drift == nil {
		return
	}
	err := e.drift
	e.drift = nil
	l.update(func() {
		e.repaired = later(time.Now(), e.repaired).Add(l.cfg.FirstRetry)
		e.status.Drifts++
	})
	l.cfg.Log.Warn("drift repaired", "target", e.status.Target, "was", err)
	l.cfg.OnEvent(Event{Drift, e.status.Target, err.Error(), err})
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
