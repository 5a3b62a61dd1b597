package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caplance/caplance/core/control"
	"github.com/caplance/caplance/core/protocol"
)

// command is an operation on its way to the goroutine of reconnect.
type command struct {
	op   control.Op
	done chan error // buffered
}

// command carries out an operation of the control socket.
func (a *Agent) command(ctx context.Context, op control.Op) (string, error) {
	if op == control.GetState {
		return a.State().String(), nil
	}
	if err := allowed(op, a.State()); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, a.config().WriteTimeout, errors.New("balancer does not answer"))
	defer cancel()
	o := command{op, make(chan error, 1)}
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

// weigh gives the backend another share of new flows, until the file is read
// again.
func (a *Agent) weigh(_ context.Context, weight uint32) (string, error) {
	if weight > protocol.MaxWeight {
		return "", fmt.Errorf("weight %d is more than %d", weight, protocol.MaxWeight)
	}
	err := a.change(func(c *Config) { c.Weight = weight })
	return a.State().String(), err
}

// command carries out what the operator asked for.
func (s *session) command(o command) error {
	err := allowed(o.op, s.a.State())
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
	return s.send(protocol.Request{Verb: v.ask, Name: s.a.config().Name}, v.answer, func(_ protocol.Reply, err error) error {
		if err == nil {
			s.become(v.to)
		} else {
			s.a.setState(s.a.admin)
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
	s.a.admin = to
	s.pace()
}

// unleased is the time between two HEALTH for a balancer that tells no lease.
const unleased = 5 * time.Second

// minInterval is the least time between two HEALTH, whatever a balancer says: a third of
// the shortest lease that one can be configured with is 33 ms.
const minInterval = 10 * time.Millisecond

// interval returns the time between two HEALTH: a lease has room for three.
func (s *session) interval() time.Duration {
	d := unleased
	if s.offer.lease > 0 {
		d = max(s.offer.lease/3, minInterval)
	}
	if s.a.State() == Draining {
		d = min(d, drainInterval)
	}
	return d
}

// pace makes the time between two HEALTH, and the patience with the balancer, which
// only speaks when spoken to, what they should be.
func (s *session) pace() {
	d := s.interval()
	s.comm.SetTimeouts(d+s.a.config().ReadTimeout, s.a.config().WriteTimeout)
	s.heartbeats.Reset(d)
}
