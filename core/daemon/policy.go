package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/datapath"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/policies"
)

// policySet is every service's policy with an instance for each worker.
type policySet struct {
	runtime *host.Runtime
	perSvc  [][]*host.Scheduler // [service][worker]
}

// loadPolicies reads, compiles and starts the services' policies. Its errors
// name the service.
func loadPolicies(ctx context.Context, services []*core.Service, workers int, log *slog.Logger) (_ *policySet, err error) {
	rt, err := host.NewRuntime(ctx)
	if err != nil {
		return nil, err
	}
	set := &policySet{runtime: rt}
	defer func() {
		if err != nil {
			err = errors.Join(err, set.close())
		}
	}()
	compiled := map[string]*host.Policy{}
	for _, s := range services {
		p := compiled[s.Policy]
		if p == nil {
			if p, err = compile(ctx, rt, s.Policy); err != nil {
				return nil, fmt.Errorf("service %q: %w", s.Name, err)
			}
			compiled[s.Policy] = p
		}
		var scheds []*host.Scheduler
		for w := range workers {
			sched, err := p.NewScheduler(ctx, host.Config{
				Worker: w, Workers: workers, Seed: s.Seed, ConfigJSON: s.Config, Log: log.With("service", s.Name),
			})
			if err != nil {
				return nil, fmt.Errorf("service %q: %w", s.Name, err)
			}
			scheds = append(scheds, sched)
			set.perSvc = append(set.perSvc[:s.Index], scheds)
		}
	}
	return set, nil
}

func compile(ctx context.Context, rt *host.Runtime, spec string) (*host.Policy, error) {
	name, wasm, err := policies.Load(spec)
	if err != nil {
		return nil, err
	}
	return rt.Compile(ctx, name, wasm)
}

// schedulers are one worker's, by Service.Index.
func (p *policySet) schedulers(worker int) []datapath.Scheduler {
	out := make([]datapath.Scheduler, len(p.perSvc))
	for i, s := range p.perSvc {
		out[i] = s[worker]
	}
	return out
}

// stats sums a service's workers.
func (p *policySet) stats(service uint16) host.Stats {
	var sum host.Stats
	for _, s := range p.perSvc[service] {
		st := s.Stats()
		sum.Policy = st.Policy
		for i := range sum.Picks {
			sum.Picks[i] += st.Picks[i]
		}
		sum.NoChoice += st.NoChoice
		sum.Failures += st.Failures
		sum.Replaced += st.Replaced
		sum.Quarantined = sum.Quarantined || st.Quarantined
		if st.LastError != "" {
			sum.LastError = st.LastError
		}
	}
	return sum
}

func (p *policySet) close() (err error) {
	for _, svc := range p.perSvc {
		for _, s := range svc {
			err = errors.Join(err, s.Close())
		}
	}
	return errors.Join(err, p.runtime.Close(context.Background()))
}
