package agent

import (
	"context"
)

// keep holds a session to the balancer until stop ends, politely, or life.
func (a *Agent) keep(stop, life context.Context) {
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
		a.log.Warn("session ended, trying again", "server", a.cfg.Server, "err", err)
		retry.waitEither(stop, life)
	}
	a.setState(Unregistered)
}

// idle waits for the operator to resume.
func (a *Agent) idle(stop, life context.Context) {
	a.setState(Unregistered)
	select {
	case o := <-a.ops:
		err := may(o.op, Unregistered)
		if err == nil {
			a.held, a.wish = false, Active
			a.setState(Registering)
		}
		o.done <- err
	case <-stop.Done():
	case <-life.Done():
	}
}
