package agent

import (
	"context"
	"errors"
	"time"

	"github.com/caplance/caplance/core/registry"
)

// drainPace is the longest time between heartbeats while flows are waited for;
// lastWords is how long a stopping agent waits for the answer to DEREGISTER.
const (
	drainPace = 500 * time.Millisecond
	lastWords = 2 * time.Second
)

// leave begins the end of a stopping agent.
func (s *session) leave() error {
	s.stopping = true
	if s.nonce == "" {
		return context.Canceled
	}
	if state := s.a.State(); !s.registered || !s.a.cfg.Drain || state == Paused || state == Drained {
		return s.goodbye()
	}
	s.a.setState(Draining)
	s.setPace(min(drainPace, s.a.cfg.Heartbeat))
	s.farewell = time.After(s.a.cfg.StopTimeout)
	return s.send(registry.Request{Verb: registry.Drain, Name: s.a.cfg.Name}, registry.Draining, nil)
}

// goodbye sends DEREGISTER; when it is due again, the answer is given up.
func (s *session) goodbye() error {
	if s.a.State() == Deregistering {
		return errors.New("DEREGISTER was not answered")
	}
	s.a.setState(Deregistering)
	s.farewell = time.After(lastWords)
	return s.send(registry.Request{Verb: registry.Deregister, Name: s.a.cfg.Name}, registry.Deregistered, func(registry.Reply, error) error {
		s.over = true
		return nil
	})
}
