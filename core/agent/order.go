package agent

import (
	"context"
	"errors"

	"github.com/caplance/caplance/core/control"
	"github.com/caplance/caplance/core/registry"
)

// order is an operation on its way to keep's goroutine.
type order struct {
	op   control.Op
	done chan error // buffered
}

// steer is the control socket's way in.
func (a *Agent) steer(ctx context.Context, op control.Op) (string, error) {
	if op == control.GetState {
		return a.State().String(), nil
	}
	if err := may(op, a.State()); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, a.cfg.WriteTimeout, errors.New("balancer does not answer"))
	defer cancel()
	o := order{op, make(chan error, 1)}
	select {
	case a.ops <- o:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	select {
	case err := <-o.done:
		return a.State().String(), err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// order carries out what the operator asked for.
func (s *session) order(o order) error {
	err := may(o.op, s.a.State())
	if s.stopping {
		err = errors.New("agent is stopping")
	}
	if err != nil {
		o.done <- err
		return nil
	}
	v := verbs[o.op]
	if o.op == control.Deregister {
		s.a.setState(Deregistering)
	}
	return s.send(registry.Request{Verb: v.ask, Name: s.a.cfg.Name}, v.answer, func(_ registry.Reply, err error) error {
		if err == nil {
			s.become(v.to)
		} else {
			s.a.setState(s.a.wish)
		}
		o.done <- err
		return nil
	})
}

// become notes what the balancer has confirmed.
func (s *session) become(to State) {
	s.a.setState(to)
	if to == Unregistered {
		s.a.held, s.over = true, true
		return
	}
	s.a.wish = to
	if to == Draining {
		s.setPace(min(drainPace, s.a.cfg.Heartbeat))
	} else {
		s.setPace(s.a.cfg.Heartbeat)
	}
}
