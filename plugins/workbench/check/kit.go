package check

import (
	"context"
	"fmt"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/workbench/trial"
)

// kit is what the cases work with.
type kit struct {
	ctx    context.Context
	policy *host.Policy
	opt    *Options
}

// config is that of a worker's scheduler.
func (k *kit) config() host.Config {
	return host.Config{Workers: 1, Seed: k.opt.Seed, ConfigJSON: k.opt.Config}
}

// with runs fn with an instance of the policy.
func (k *kit) with(fn func(s *host.Scheduler) outcome) outcome {
	return k.withOf(k.policy, fn)
}

func (k *kit) withOf(p *host.Policy, fn func(s *host.Scheduler) outcome) outcome {
	s, err := p.NewScheduler(k.ctx, k.config())
	if err != nil {
		return failed(err)
	}
	defer s.Close()
	return fn(s)
}

// flows starts the sequence of flows of a case.
func (k *kit) flows() *trial.Flows { return trial.NewFlows(k.opt.Seed) }

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

// summary says who placed the flows of a case that went well.
func (k *kit) summary(s *host.Scheduler, list []choice) outcome {
	switch n := asked(list); {
	case s.Refuses():
		return note("declines this pool: the balancer's lookup table places its flows")
	case k.policy.HasTable():
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

// progress tells how far a long case is.
func (k *kit) progress(name string, done, total int) {
	if k.opt.Progress != nil {
		k.opt.Progress(name, done, total)
	}
}
