package simulate

import (
	"fmt"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
)

// event changes the pool and measures what that does to flows.
func (s *simulation) event(e Event) error {
	s.settle()
	was := s.pool
	if err := e.apply(s.pools); err != nil {
		return err
	}
	if e.Kind == "kill" {
		s.kill(e.Name)
	}
	if err := s.change(); err != nil {
		return fmt.Errorf("event %v: %w", e, err)
	}
	d, err := s.probe.compare(was, s.pool)
	if err != nil {
		return fmt.Errorf("event %v: %w", e, err)
	}
	d.Event, d.At = e.String(), e.At
	s.result.Events = append(s.result.Events, d)
	return nil
}

// kill ends a backend's open flows.
func (s *simulation) kill(name string) {
	c := s.tallies[name]
	kept := s.open[:0]
	for _, e := range s.open {
		if e.tally == c {
			s.finished(e)
		} else {
			kept = append(kept, e)
		}
	}
	s.open = kept
	s.open.init()
	c.perNS, c.packets, c.bytes = 0, 0, 0 // if it comes back, it starts anew
}

// change makes the pool of the backends as they are.
func (s *simulation) change() error {
	pool := s.pools.Build()
	for _, m := range pool.Members {
		c := s.tallies[m.Name]
		if c == nil {
			c = &tally{Backend: Backend{Name: m.Name}}
			s.tallies[m.Name] = c
		}
		c.Weight = m.Weight
	}
	pool, err := s.withTable(pool)
	if err != nil {
		return err
	}
	s.pool = pool
	for _, w := range s.worker {
		w.SetPool(pool)
		if err := w.Broken(); err != nil {
			return err
		}
	}
	return nil
}

// withTable has a policy in table mode fill its table.
func (s *simulation) withTable(pool *core.Pool) (*core.Pool, error) {
	if !s.policy.HasTable() || pool.Eligible == 0 {
		return pool, nil
	}
	t, err := s.policy.BuildTable(s.ctx, host.Config{Workers: 1, Seed: s.opt.Seed, ConfigJSON: s.opt.Config}, pool)
	if err != nil {
		return nil, err
	}
	return pool.WithTable(t), nil
}
