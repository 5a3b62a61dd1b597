package daemon

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/datapath"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/policies"
)

// policySet is every service's policy with a scheduler for each worker.
type policySet struct {
	runtime  *host.Runtime
	log      *slog.Logger
	workers  int
	services []*servicePolicy

	mu     sync.Mutex // one change at a time
	loaded map[[sha256.Size]byte]*module
}

// module is a compiled policy and how many versions use it.
type module struct {
	policy *host.Policy
	refs   int
}

// version is one choice of policy for a service.
type version struct {
	spec   string // as configured or asked for
	config []byte // policy_config as JSON
	sum    [sha256.Size]byte
	policy *host.Policy
	since  time.Time
}

// servicePolicy is what schedules one service's flows.
type servicePolicy struct {
	svc        *core.Service
	schedulers []*host.Scheduler // by worker

	recording sync.Mutex // held while it is recorded

	mu                        sync.Mutex // guards what follows
	current, previous, shadow *version
	table                     tableState
}

// loadPolicies reads, compiles and starts the services' policies. Its errors
// name the service.
func loadPolicies(ctx context.Context, cfg *config.Server, workers int, log *slog.Logger) (_ *policySet, err error) {
	rt, err := host.NewRuntimeWith(ctx, limits(cfg.Policy))
	if err != nil {
		return nil, err
	}
	set := &policySet{runtime: rt, log: log, workers: workers, loaded: map[[sha256.Size]byte]*module{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, set.close())
		}
	}()
	for _, s := range cfg.Services {
		if err := set.start(ctx, s); err != nil {
			return nil, fmt.Errorf("service %q: %w", s.Name, err)
		}
	}
	return set, nil
}

func limits(p config.Policy) host.Limits {
	return host.Limits{
		ModuleBytes: p.MaxModuleBytes, MemoryPages: uint32(p.MaxMemoryPages), Depth: int64(p.MaxDepth), LogBytes: p.LogBytes,
		PickFuel: p.PickFuel, CallFuel: p.CallFuel, StartFuel: p.StartFuel,
	}
}

// start gives a service its first policy.
func (p *policySet) start(ctx context.Context, s *core.Service) error {
	v, err := p.load(ctx, s.Policy, s.Config)
	if err != nil {
		return err
	}
	sp := &servicePolicy{svc: s, current: v}
	p.services = append(p.services, sp)
	for w := range p.workers {
		sched, err := v.policy.NewScheduler(ctx, p.config(sp, v, w))
		if err != nil {
			return err
		}
		sp.schedulers = append(sp.schedulers, sched)
	}
	if s.Shadow == "" {
		return nil
	}
	sp.shadow, err = p.loadShadow(ctx, s.Shadow)
	if err != nil {
		return fmt.Errorf("shadow: %w", err)
	}
	for w, sched := range sp.schedulers { // no worker runs yet
		sh, err := sp.shadow.policy.NewScheduler(ctx, p.config(sp, sp.shadow, w))
		if err != nil {
			return fmt.Errorf("shadow: %w", err)
		}
		sched.SetShadow(sh)
	}
	return nil
}

// config is what a worker's scheduler of a version is made with.
func (p *policySet) config(sp *servicePolicy, v *version, worker int) host.Config {
	return host.Config{
		Worker: worker, Workers: p.workers, Seed: sp.svc.Seed, ConfigJSON: v.config,
		Log: p.log.With("service", sp.svc.Name),
	}
}

// load reads and compiles a policy; the same bytes are compiled once.
func (p *policySet) load(ctx context.Context, spec string, config []byte) (*version, error) {
	name, wasm, err := policies.Load(spec)
	if err != nil {
		return nil, err
	}
	v := &version{spec: spec, config: config, sum: sha256.Sum256(wasm), since: time.Now()}
	m := p.loaded[v.sum]
	if m == nil {
		policy, err := p.runtime.Compile(ctx, name, wasm)
		if err != nil {
			return nil, err
		}
		m = &module{policy: policy}
		p.loaded[v.sum] = m
	}
	m.refs++
	v.policy = m.policy
	return v, nil
}

// loadShadow loads a policy that is to be a shadow.
func (p *policySet) loadShadow(ctx context.Context, spec string) (*version, error) {
	v, err := p.load(ctx, spec, nil)
	if err == nil && v.policy.HasTable() {
		p.drop(v)
		return nil, fmt.Errorf("policy %q fills a table and is not asked for picks: it cannot be a shadow", spec)
	}
	return v, err
}

// drop gives a version up, nil for none.
func (p *policySet) drop(v *version) {
	if v == nil {
		return
	}
	m := p.loaded[v.sum]
	if m.refs--; m.refs > 0 {
		return
	}
	delete(p.loaded, v.sum)
	if err := m.policy.Close(context.Background()); err != nil {
		p.log.Warn("policy not freed", "policy", m.policy.Name(), "err", err)
	}
}

// same says whether a specification still means what v is.
func (v *version) same(spec string, config []byte) bool {
	if v == nil || v.spec != spec || !bytes.Equal(v.config, config) {
		return false
	}
	_, wasm, err := policies.Load(spec)
	return err == nil && sha256.Sum256(wasm) == v.sum
}

// schedulersOf are one worker's, by Service.Index.
func (p *policySet) schedulersOf(worker int) []datapath.Scheduler {
	out := make([]datapath.Scheduler, len(p.services))
	for i, s := range p.services {
		out[i] = s.schedulers[worker]
	}
	return out
}

// stats sums a service's workers.
func (sp *servicePolicy) stats() (sum host.Stats) {
	for i, s := range sp.schedulers {
		st := s.Stats()
		sum.Policy = st.Policy
		for j := range sum.Picks {
			sum.Picks[j] += st.Picks[j]
		}
		sum.NoChoice += st.NoChoice
		sum.Failures += st.Failures
		sum.Replaced += st.Replaced
		sum.Quarantined = sum.Quarantined || st.Quarantined
		if st.LastError != "" {
			sum.LastError = st.LastError
		}
		if i == 0 || len(st.Metrics) != len(sum.Metrics) {
			sum.Metrics = st.Metrics
			continue
		}
		for j := range st.Metrics {
			sum.Metrics[j].Value += st.Metrics[j].Value
		}
	}
	return sum
}

// shadowStats sums a service's workers; ok is false without a shadow.
func (sp *servicePolicy) shadowStats() (sum host.ShadowStats, ok bool) {
	sum.Would = map[string]uint64{}
	for _, s := range sp.schedulers {
		st, is := s.Shadow()
		ok = ok || is
		if !is {
			continue
		}
		sum.Policy = st.Policy
		sum.Asked += st.Asked
		sum.Agreed += st.Agreed
		for name, n := range st.Would {
			sum.Would[name] += n
		}
	}
	return sum, ok
}

func (p *policySet) close() (err error) {
	for _, sp := range p.services {
		for _, s := range sp.schedulers {
			err = errors.Join(err, s.Close())
		}
	}
	return errors.Join(err, p.runtime.Close(context.Background()))
}
