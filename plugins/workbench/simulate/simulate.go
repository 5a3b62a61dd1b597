// Package simulate lets a policy schedule millions of made-up flows over a pool
// that changes, and says how evenly and how steadily it did.
//
//	result, err := simulate.Run(ctx, policy, simulate.Options{
//		Backends: backends, Workload: workload, Events: events, Workers: 4, Seed: 1})
//
// The clock is simulated, and so are the workers, whose counters agree only
// every 1 to 20 ms, as in the balancer. Everything follows from the seed.
package simulate

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/workbench/trial"
)

// Options are what is simulated.
type Options struct {
	Backends []core.Backend
	Workload trial.Workload
	Events   []Event // by time
	Workers  int     // 0 is 1
	Seed     uint64
	Config   []byte // policy_config as JSON; nil is none
	// Progress is told how many flows have come; nil tells nobody.
	Progress func(done, total int)
}

// A simulation lasts 100 s, however many flows there are.
const (
	length  = 100e9 // ns
	second  = 1e9
	samples = 500 // of the open flows, over the length
)

// Flow lengths are heavy-tailed: at least 1 s, 4.1 s in the mean, at most 60 s.
const (
	lengthExponent = 1.2
	shortest       = 1e9
	longest        = 60e9
)

// simulation is a run in progress.
type simulation struct {
	ctx     context.Context
	opt     *Options
	policy  *host.Policy
	pools   *trial.Pools
	pool    *core.Pool
	tallies map[string]*tally // by backend
	worker  []*host.Scheduler
	open    ends
	result  *Result
	probe   *probe
	now     uint64 // ns
	came    uint64 // flows placed since the pool changed last
}

// tally is what one backend has and had.
type tally struct {
	Backend
	active         int64
	perNS          float64 // packets that its open flows send
	packets, bytes float64
}

// Run simulates one policy.
//
// Errors: the policy does not start or it failed; an event about a backend that
// is not there; ctx ended.
func Run(ctx context.Context, policy *host.Policy, opt Options) (*Result, error) {
	opt.Workers = max(opt.Workers, 1)
	s := &simulation{
		ctx: ctx, opt: &opt, policy: policy, pools: trial.NewPools(opt.Backends), tallies: map[string]*tally{},
		result: &Result{Policy: policy.Name(), Flows: opt.Workload.N, Workers: opt.Workers, Seed: opt.Seed, Table: policy.HasTable()},
	}
	defer func() {
		for _, w := range s.worker {
			w.Close()
		}
	}()
	for i := range opt.Workers {
		w, err := policy.NewScheduler(ctx, host.Config{Worker: i, Workers: opt.Workers, Seed: opt.Seed, ConfigJSON: opt.Config})
		if err != nil {
			return nil, err
		}
		s.worker = append(s.worker, w)
	}
	var err error
	if s.probe, err = newProbe(s); err != nil {
		return nil, err
	}
	if err := s.change(); err != nil {
		return nil, err
	}
	if err := s.play(); err != nil {
		return nil, err
	}
	s.finish()
	return s.result, nil
}

// finish adds up.
func (s *simulation) finish() {
	s.settle()
	r := s.result
	for _, c := range s.tallies {
		r.Backends = append(r.Backends, c.Backend)
	}
	slices.SortFunc(r.Backends, func(a, b Backend) int {
		if d := trial.Natural(a.Name, b.Name); d != 0 {
			return d
		}
		return cmp.Compare(a.Name, b.Name)
	})
	r.Consistent = s.probe.consistent
	r.judge()
}

func seconds(ns uint64) string { return fmt.Sprintf("%.3gs", float64(ns)/1e9) }
