package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/caplance/caplance/core"
)

// Config is what one worker's scheduler is made with.
type Config struct {
	Worker, Workers int          // index and number of workers, 0 ≤ Worker < Workers
	Seed            uint64       // with Worker it fixes the guest's randomness
	ConfigJSON      []byte       // the service's policy_config; nil is none
	Log             *slog.Logger // nil discards
	Clocks          *Clocks      // slow picks are failures by them; nil: none is slow, so that picks replay
}

// check completes a configuration for policy p.
func (c *Config) check(p *Policy) error {
	if c.Workers < 1 || c.Worker < 0 || c.Worker >= c.Workers {
		return fmt.Errorf("policy %q: worker %d of %d does not exist", p.name, c.Worker, c.Workers)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Log = c.Log.With("policy", p.name, "worker", c.Worker)
	return nil
}

// Scheduler is one worker's use of one policy after the other for one service.
// Its methods belong to one goroutine, all but Prepare and Stats.
type Scheduler struct {
	ctx    context.Context // of every guest call and of the replacements
	cancel context.CancelFunc

	run    *run
	in     *instance // nil while there is none: the lookup table answers
	rests  bool      // there is none because nobody has asked yet
	pool   *core.Pool
	counts []counts // by index in pool.Members; they outlive instances and policies

	building sync.WaitGroup
	ready    atomic.Pointer[instance]  // built, not yet adopted
	latest   atomic.Pointer[core.Pool] // what a new instance is loaded with
	stats    stats

	shadow    *Scheduler // nil: none
	tally     atomic.Pointer[tally]
	shadowArg core.NewFlow // what the shadow is asked; on the stack it would escape

	recorder atomic.Pointer[Recorder]
}

// run is the time of one policy in a scheduler.
type run struct {
	policy *Policy
	cfg    Config
	ctx    context.Context // ends with the run
	cancel context.CancelFunc
	streak streak
}

// NewScheduler starts an instance of the policy. ctx bounds nothing but the
// start; Close ends the scheduler.
//
// Errors: the guest failed in its initialization, handed out an impossible
// buffer, takes no configuration or rejects it.
func (p *Policy) NewScheduler(ctx context.Context, cfg Config) (*Scheduler, error) {
	s := &Scheduler{}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	n, err := s.Prepare(ctx, p, cfg)
	if err != nil {
		s.cancel()
		return nil, err
	}
	s.Switch(n)
	return s, nil
}

// Next is a policy that is ready to take over.
type Next struct {
	run *run
	in  *instance
}

// Prepare starts an instance of p for this scheduler and loads the pool into
// it. It may be called from any goroutine; Switch or Discard must follow.
func (s *Scheduler) Prepare(ctx context.Context, p *Policy, cfg Config) (*Next, error) {
	if err := cfg.check(p); err != nil {
		return nil, err
	}
	in, err := startLoaded(ctx, p, &cfg, s.latest.Load())
	if err != nil {
		return nil, fmt.Errorf("policy %q: %w", p.name, err)
	}
	n := &Next{in: in, run: &run{policy: p, cfg: cfg}}
	n.run.ctx, n.run.cancel = context.WithCancel(s.ctx)
	in.run = n.run
	return n, nil
}

// Discard ends a policy that is not to take over after all.
func (n *Next) Discard() {
	n.run.cancel()
	n.in.close(context.Background())
}

// Switch makes n the policy of the following picks. What it replaces is ended
// off the path.
func (s *Scheduler) Switch(n *Next) {
	if s.run != nil {
		s.run.cancel()
	}
	s.retire(s.in)
	s.retire(s.ready.Swap(nil))
	s.run, s.in, s.rests = n.run, n.in, false
	s.stats.begin(n.run.policy.name, n.in.metricNames())
	s.refreshInstance()
}

// Rest ends the instance of a scheduler that has no pool yet: the first SetPool
// starts another one, which takes some 0.1 ms. An instance holds a megabyte or
// more, and of many services most see few flows.
func (s *Scheduler) Rest() {
	if s.pool == nil && s.in != nil {
		s.retire(s.in)
		s.in, s.rests = nil, true
	}
}

// wake starts the instance of a scheduler that rests.
func (s *Scheduler) wake() {
	s.rests = false
	in, err := newInstance(s.run.ctx, s.run.policy, &s.run.cfg)
	if err != nil {
		s.building.Go(func() { s.replace(s.run, err) })
		return
	}
	in.run, s.in = s.run, in
}

// retire ends an instance off the path.
func (s *Scheduler) retire(in *instance) {
	if in != nil {
		s.building.Go(func() { in.close(s.ctx) })
	}
}

// refreshInstance brings the instance in use up to the pool and the counters.
func (s *Scheduler) refreshInstance() {
	switch {
	case s.pool == nil:
	case s.in.pool != s.pool:
		s.load()
	default:
		s.in.putCounts(s.counts)
	}
}

// SetPool makes p the pool that Pick chooses from. It may take as long as the
// policy needs to digest a pool, so call it between batches.
func (s *Scheduler) SetPool(p *core.Pool) {
	s.counts = carry(s.pool, s.counts, p)
	s.pool = p
	s.latest.Store(p)
	switch {
	case s.rests:
		s.wake()
	case s.in == nil:
		s.adopt()
	}
	if s.in != nil && s.in.pool != p {
		s.load()
	}
	s.shadowPool(p)
}

// load brings the instance up to the pool and the counters.
func (s *Scheduler) load() {
	if err := s.in.load(s.ctx, s.pool, s.counts); err != nil {
		s.fail(err)
	}
}

// Refresh sets the counters to the values of the whole balancer, each by index
// in the Members of the pool given last: open flows, packets and bytes
// forwarded since the member joined. A nil slice leaves its counter alone.
func (s *Scheduler) Refresh(active []uint32, packets, bytes []uint64) {
	for i := range s.counts {
		c := &s.counts[i]
		if i < len(active) {
			c[countActive].value = uint64(active[i])
		}
		if i < len(packets) {
			c[countPackets].value = packets[i]
		}
		if i < len(bytes) {
			c[countBytes].value = bytes[i]
		}
	}
	if s.pool == nil {
		return
	}
	settle(s.pool, s.counts)
	if s.in != nil {
		s.in.putCounts(s.counts)
	}
	if s.shadow != nil {
		s.shadow.Refresh(active, packets, bytes)
	}
}

// Close ends the instance and the shadow, and waits for a replacement under way.
func (s *Scheduler) Close() error {
	s.cancel()
	s.building.Wait()
	var errs []error
	for _, in := range []*instance{s.in, s.ready.Swap(nil)} {
		if in != nil {
			errs = append(errs, in.mod.Close(context.Background()))
		}
	}
	s.in = nil
	if s.shadow != nil {
		errs = append(errs, s.shadow.Close())
		s.shadow = nil
	}
	return errors.Join(errs...)
}
