package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/caplance/caplance/core/auth"
)

// errReregister ends a session for another one with a new configuration.
var errReregister = errors.New("configuration changed")

// lastTenth returns what fires in the last tenth of the time until then, at random, so
// that agents whose certificates end together do not leave together; nil for the zero
// time.
func lastTenth(at time.Time) <-chan time.Time {
	if at.IsZero() {
		return nil
	}
	tenth := max(0, time.Until(at)) / 10
	return time.After(9*tenth + rand.N(tenth/2+1))
}

// renew ends a session whose certificate ends soon for one by another, if there is
// another. Else the balancer ends it.
func (s *session) renew() error {
	s.ending = nil
	if own := s.a.config().Own; s.stopping || own == nil || auth.Same(own.Identity(), s.ids.Own.Identity()) {
		return nil
	}
	return fmt.Errorf("%w: its certificate ends soon", errReregister)
}

// reconnect keeps a session to the balancer until stop ends, politely, or life.
func (a *Agent) reconnect(stop, life context.Context) {
	for retry := (backoff{}); stop.Err() == nil && life.Err() == nil; {
		if a.held {
			a.idle(stop, life)
			continue
		}
		a.setState(Registering)
		s := &session{a: a}
		err := s.run(stop, life)
		if s.registered {
			retry.reset()
		}
		if a.held || stop.Err() != nil || life.Err() != nil {
			continue
		}
		a.setState(Registering)
		if errors.Is(err, errReregister) {
			a.log.Info("registering anew", "why", err)
			continue
		}
		a.log.Warn("session ended, trying again", "server", a.config().Server, "err", brief(err))
		a.backOff(stop, life, retry.delay())
	}
	a.setState(Unregistered)
}

// backOff waits until the next attempt is due. A reload makes it due at once.
func (a *Agent) backOff(stop, life context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case r := <-a.reloads:
		a.apply(&r.cfg)
		r.done <- nil
	case <-stop.Done():
	case <-life.Done():
	}
}

// idle waits for the operator to resume.
func (a *Agent) idle(stop, life context.Context) {
	a.setState(Unregistered)
	select {
	case o := <-a.ops:
		err := allowed(o.op, Unregistered)
		if err == nil {
			a.held, a.admin = false, Active
			a.setState(Registering)
		}
		o.done <- err
	case r := <-a.reloads:
		a.apply(&r.cfg)
		r.done <- nil
	case <-stop.Done():
	case <-life.Done():
	}
}
