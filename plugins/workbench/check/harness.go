package check

import (
	"context"
	"fmt"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/workbench/trial"
)

// harness runs the cases: it holds what they work with.
type harness struct {
	ctx    context.Context
	policy *host.Policy
	opt    *Options
}

// config returns that of a worker's scheduler.
func (h *harness) config() host.Config {
	return host.Config{Workers: 1, Seed: h.opt.Seed, ConfigJSON: h.opt.Config}
}

// with runs fn with an instance of the policy.
func (h *harness) with(fn func(s *host.Scheduler) outcome) outcome {
	return h.withOf(h.policy, fn)
}

func (h *harness) withOf(p *host.Policy, fn func(s *host.Scheduler) outcome) outcome {
	s, err := p.NewScheduler(h.ctx, h.config())
	if err != nil {
		return failed(err)
	}
	defer s.Close()
	return fn(s)
}

// flows starts the sequence of flows of a case.
func (h *harness) flows() *trial.Flows { return trial.NewFlows(h.opt.Seed) }

// choice is one pick: a backend's id, 0 for none, and who decided.
type choice struct {
	id uint64
	by core.Decision
}

// pickAll asks about n flows in pool; the error is the policy's first failure.
func pickAll(s *host.Scheduler, pool *core.Pool, flows *trial.Flows, n int) ([]choice, error) {
	s.SetPool(pool)
	if err := s.Broken(); err != nil {
		return nil, fmt.Errorf("pool of %d backends, %d eligible: %w", len(pool.Members), pool.Eligible, err)
	}
	out := make([]choice, 0, n)
	for i := range n {
		f := flows.Next()
		c, err := pick(s, pool, &f)
		if err != nil {
			return out, fmt.Errorf("pool of %d backends, %d eligible, pick %d: %w", len(pool.Members), pool.Eligible, i+1, err)
		}
		out = append(out, c)
	}
	return out, nil
}

func pick(s *host.Scheduler, pool *core.Pool, f *core.NewFlow) (choice, error) {
	index, by := s.Pick(f)
	if err := s.Broken(); err != nil {
		return choice{}, err
	}
	c := choice{by: by}
	if index >= 0 {
		c.id = pool.Members[index].ID
	}
	return c, nil
}

// asked counts the flows that the policy itself placed.
func asked(list []choice) (n int) {
	for _, c := range list {
		if c.by == core.ByPolicy {
			n++
		}
	}
	return n
}

// summary returns who placed the flows of a case that went well.
func (h *harness) summary(s *host.Scheduler, list []choice) outcome {
	switch n := asked(list); {
	case s.Refuses():
		return note("declines this pool: the balancer's lookup table places its flows")
	case h.policy.HasTable():
		return ok("%d picks without its table", len(list))
	case n < len(list):
		return ok("%d picks, %d of them left to the lookup table or rejected", len(list), len(list)-n)
	default:
		return ok("%d picks", len(list))
	}
}

// same compares two sequences of picks.
func same(a, b []choice, what string) error {
	for i := range a {
		if a[i] != b[i] {
			return fmt.Errorf("pick %d differs %s: backend %016x by %v, then %016x by %v",
				i+1, what, a[i].id, a[i].by, b[i].id, b[i].by)
		}
	}
	return nil
}

// progress shows how far a long case is.
func (h *harness) progress(name string, done, total int) {
	if h.opt.Progress != nil {
		h.opt.Progress(name, done, total)
	}
}
