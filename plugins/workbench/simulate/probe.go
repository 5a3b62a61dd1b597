package simulate

import (
	"fmt"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/workbench/trial"
)

// probe asks an instance of its own about the same flows before and after a
// change of the pool: where would they be sent if they had no entry in the flow
// table?
type probe struct {
	run        *simulation
	flows      []core.NewFlow
	consistent bool
}

// probed is how many flows are compared: a prime, or round-robin would come
// round and look consistent.
const probed = 20_011

func newProbe(s *simulation) (*probe, error) {
	p := &probe{run: s}
	flows := trial.NewFlows(s.opt.Seed + 1)
	for range probed {
		p.flows = append(p.flows, flows.Next())
	}
	pool, err := s.withTable(s.pools.Build())
	if err != nil {
		return nil, err
	}
	first, again, err := p.places(pool, pool)
	if err != nil {
		return nil, err
	}
	p.consistent = true
	for i := range first {
		p.consistent = p.consistent && first[i] == again[i]
	}
	return p, nil
}

// places returns the ids of the backends that the flows get in one pool and then in
// another.
func (p *probe) places(was, now *core.Pool) (before, after []uint64, err error) {
	s, err := p.run.policy.NewScheduler(p.run.ctx, host.Config{Workers: 1, Seed: p.run.opt.Seed, ConfigJSON: p.run.opt.Config})
	if err != nil {
		return nil, nil, err
	}
	defer s.Close()
	all := func(pool *core.Pool, offset uint64) []uint64 {
		s.SetPool(pool)
		ids := make([]uint64, len(p.flows))
		for i, f := range p.flows {
			f.Rand += offset
			if index, _ := s.Pick(&f); index >= 0 {
				ids[i] = pool.Members[index].ID
			}
		}
		return ids
	}
	before, after = all(was, 0), all(now, 0x9e3779b97f4a7c15)
	if err := s.Broken(); err != nil {
		return nil, nil, fmt.Errorf("comparison of %d flows: %w", len(p.flows), err)
	}
	return before, after, nil
}

// compare measures the disruption of a change.
func (p *probe) compare(was, now *core.Pool) (d Disruption, err error) {
	before, after, err := p.places(was, now)
	if err != nil {
		return d, err
	}
	had, has := fair(was), fair(now)
	moved, needless := 0, 0
	for i, from := range before {
		to := after[i]
		if from == to {
			continue
		}
		moved++
		// Flows have to go only from where the share falls to where it rises.
		if has[from] >= had[from] || has[to] <= had[to] {
			needless++
		}
	}
	d.Moved = float64(moved) / probed
	d.Needless = float64(needless) / probed
	d.Least = leastMoved(had, has)
	return d, nil
}

// leastMoved returns the share of the flows that any policy has to move so that the
// shares follow the weights again: what the ones that lose lose.
func leastMoved(had, has map[uint64]float64) (sum float64) {
	for id, before := range had {
		sum += max(0, before-has[id])
	}
	return sum
}

// fair returns each eligible backend's share by weight, by id.
func fair(p *core.Pool) map[uint64]float64 {
	total := 0.0
	for _, m := range p.Members[:p.Eligible] {
		total += float64(m.Weight)
	}
	out := make(map[uint64]float64, p.Eligible)
	for _, m := range p.Members[:p.Eligible] {
		out[m.ID] = float64(m.Weight) / total
	}
	return out
}
