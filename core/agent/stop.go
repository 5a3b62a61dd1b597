package agent

import (
	"context"
	"errors"
	"time"

	"github.com/caplance/caplance/core/protocol"
)

// drainInterval is the longest time between heartbeats while flows are waited for;
// deregisterTimeout is how long a stopping agent waits for the answer to DEREGISTER.
const (
	drainInterval     = 500 * time.Millisecond
	deregisterTimeout = 2 * time.Second
)

// beginStop begins the end of a stopping agent.
func (s *session) beginStop() error {
	if s.a.released.Load() { // the signal came after a handover
		return context.Canceled
	}
	s.stopping = true
	if s.nonce == "" {
		return context.Canceled
	}
	if state := s.a.State(); !s.registered || !s.a.config().Drain || state == Paused || state == Drained {
		return s.deregister()
	}
	s.a.setState(Draining)
	s.pace()
	s.deadline = time.After(s.a.config().StopTimeout)
	return s.send(protocol.Request{Verb: protocol.Drain, Name: s.a.config().Name}, protocol.Draining, nil)
}

// deregister sends DEREGISTER; when it is due again, the answer is given up.
func (s *session) deregister() error {
	if s.a.State() == Deregistering {
		return errors.New("DEREGISTER was not answered")
	}
	s.a.setState(Deregistering)
	s.deadline = time.After(deregisterTimeout)
	return s.send(protocol.Request{Verb: protocol.Deregister, Name: s.a.config().Name}, protocol.Deregistered, func(protocol.Reply, error) error {
		s.over = true
		return nil
	})
}
