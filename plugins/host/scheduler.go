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
}

// Scheduler is one worker's use of one policy for one service. Its methods
// belong to one goroutine, all but Stats.
type Scheduler struct {
	policy *Policy
	cfg    Config
	ctx    context.Context // of every guest call and of the replacement
	cancel context.CancelFunc

	in     *instance // nil while there is none: the lookup table answers
	pool   *core.Pool
	counts []counts // by index in pool.Members

	replacer
	stats stats
}

// NewScheduler starts an instance of the policy. ctx bounds nothing but the
// start; Close ends the scheduler.
//
// Errors: the guest failed in its initialization, handed out an impossible
// buffer, takes no configuration or rejects it.
func (p *Policy) NewScheduler(ctx context.Context, cfg Config) (*Scheduler, error) {
	if cfg.Workers < 1 || cfg.Worker < 0 || cfg.Worker >= cfg.Workers {
		return nil, fmt.Errorf("policy %q: worker %d of %d does not exist", p.name, cfg.Worker, cfg.Workers)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Log = cfg.Log.With("policy", p.name, "worker", cfg.Worker)
	in, err := newInstance(ctx, p, &cfg)
	if err != nil {
		return nil, fmt.Errorf("policy %q: %w", p.name, err)
	}
	s := &Scheduler{policy: p, cfg: cfg, in: in}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return s, nil
}

// SetPool makes p the pool that Pick chooses from. It may take as long as the
// policy needs to digest a pool, so call it between batches.
func (s *Scheduler) SetPool(p *core.Pool) {
	s.counts = carry(s.pool, s.counts, p)
	s.pool = p
	s.latest.Store(p)
	if s.in == nil {
		s.adopt()
	}
	if s.in != nil && s.in.pool != p {
		s.load()
	}
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
}

// Close ends the instance and waits for a replacement under way.
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
	return errors.Join(errs...)
}

// replacer is the part of a scheduler that builds a new instance off the path.
type replacer struct {
	building sync.WaitGroup
	ready    atomic.Pointer[instance]  // built, not yet adopted
	latest   atomic.Pointer[core.Pool] // what a new instance is loaded with
	streak   streak
}
