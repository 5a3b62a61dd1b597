package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/protocol"
)

// do carries a request out and returns the answer, which may be empty.
func (s *session) do(ctx context.Context, req protocol.Request) (reply answer, err error) {
	switch req.Verb {
	case protocol.Register:
		return s.register(ctx, req)
	case protocol.Sane:
		return s.sane(ctx, req.Nonce)
	case protocol.Connections:
		return s.connections(req)
	}
	if s.name == "" {
		return answer{}, fmt.Errorf("%s before REGISTER and SANE", req.Verb)
	}
	if req.Name != "" && req.Name != s.name {
		return answer{}, fmt.Errorf("name %s is not this session's (%s)", req.Name, s.name)
	}
	switch req.Verb {
	case protocol.Health:
		return s.health(ctx, req)
	case protocol.Service:
		return s.service(ctx, req)
	case protocol.Pause:
		return s.setAdmin(ctx, core.Paused, protocol.Paused)
	case protocol.Drain:
		return s.setAdmin(ctx, core.Draining, protocol.Draining)
	case protocol.Resume:
		return s.setAdmin(ctx, core.Active, protocol.Resumed)
	default:
		return s.deregister(ctx)
	}
}

func (s *session) health(ctx context.Context, req protocol.Request) (answer, error) {
	changed, err := s.acknowledge(ctx, req)
	if err != nil {
		return answer{}, err
	}
	s.proveAgain(ctx, req)
	s.throttle(ctx, changed)
	return s.healthAck(), nil
}

func (s *session) setAdmin(ctx context.Context, state core.BackendState, done protocol.Verb) (answer, error) {
	changed, revision, err := s.r.leases.setAdmin(ctx, s, state)
	if err != nil {
		return answer{}, err
	}
	s.throttle(ctx, changed)
	s.wait(ctx, revision)
	return answer{line: string(done) + " " + s.name}, nil
}

func (s *session) deregister(ctx context.Context) (answer, error) {
	revision, err := s.r.leases.remove(ctx, s)
	if err != nil {
		return answer{}, err
	}
	s.wait(ctx, revision)
	return answer{line: fmt.Sprintf("%s %s requested", protocol.Deregistered, s.name)}, nil
}

// throttle holds the answer to a change back, and with it the next line, when
// the session makes too many. One line costs 200 ms at most, which no lease
// notices: it runs from the reading of the next line.
func (s *session) throttle(ctx context.Context, changed bool) {
	if !changed {
		return
	}
	s.holdBack(ctx, s.changes.take(time.Now(), s.r.settings.Load().Limits.Changes))
}

// throttleServices does so when services turn too often, each by itself: a backend of
// many has many that turn at once, and what is down should not wait for that.
func (s *session) throttleServices(ctx context.Context, turned []string) {
	now, most, delay := time.Now(), s.r.settings.Load().Limits.Changes, time.Duration(0)
	for _, name := range turned {
		if s.turns == nil {
			s.turns = map[string]*bucket{}
		}
		if s.turns[name] == nil {
			s.turns[name] = &bucket{}
		}
		delay = max(delay, s.turns[name].take(now, most))
	}
	s.holdBack(ctx, delay)
}

func (s *session) holdBack(ctx context.Context, d time.Duration) {
	if d > 0 {
		s.r.counted.changes.Add(1)
		s.r.quiet.warn(s.peer.Addr(), "", "backend changes its state too often: answers are delayed", "backend", s.name, "delay", d)
		sleep(ctx, d)
	}
}

// wait holds an answer back until the datapath works by a revision: an agent
// that reads PAUSED gets no more packets. A datapath that takes longer than the
// write timeout, or fails, does not hold up the agent. No lock is held.
func (s *session) wait(ctx context.Context, revision uint64) {
	if s.r.cfg.Wait == nil {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, s.r.settings.Load().WriteTimeout)
	defer cancel()
	if err := s.r.cfg.Wait(bounded, revision); err != nil && ctx.Err() == nil {
		s.r.quiet.warn(s.peer.Addr(), "", "answer sent before the datapath has the change", "backend", s.name, "revision", revision, "err", err)
	}
}
