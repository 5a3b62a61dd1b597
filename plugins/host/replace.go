package host

import (
	"context"
	"fmt"
	"time"

	"github.com/caplance/caplance/core"
)

const (
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 30 * time.Second
	// calm is how long an instance must live for its failure to count as the
	// first of its kind.
	calm = time.Minute
	// maxStreak failures in a row end in quarantine, after 3.1 s of backoff in
	// all: a policy that fails that often will fail again.
	maxStreak = 6
)

// streak counts failures in a row. It is passed on with the instance: the
// owner of the one is the owner of the other.
type streak struct {
	failures int
	born     time.Time // of the instance in use
}

type badIndexError struct {
	index    int32
	eligible int
}

func (e badIndexError) Error() string {
	return fmt.Sprintf("pick answered %d: the eligible backends are 0 to %d", e.index, e.eligible-1)
}

// fail throws the instance away and has a new one built.
func (s *Scheduler) fail(err error) {
	broken, r := s.in, s.run
	s.in = nil
	if !r.streak.born.IsZero() && time.Since(r.streak.born) >= calm {
		r.streak.failures = 0
	}
	s.building.Go(func() {
		broken.close(s.ctx)
		s.replace(r, err)
	})
}

// replace builds an instance with growing pauses until one lives, the policy
// is in quarantine, or another one has taken over. It runs in its own
// goroutine.
func (s *Scheduler) replace(r *run, err error) {
	for {
		r.streak.failures++
		s.stats.failed(err)
		if r.streak.failures >= maxStreak {
			s.stats.quarantined.Store(true)
			r.cfg.Log.Error("policy is in quarantine: its flows go by the lookup table", "failures", r.streak.failures, "error", err)
			return
		}
		pause := min(firstBackoff<<(r.streak.failures-1), maxBackoff)
		r.cfg.Log.Warn("policy failed: the lookup table answers until a new instance is ready", "pause", pause, "error", err)
		select {
		case <-r.ctx.Done():
			return
		case <-time.After(pause):
		}
		var in *instance
		if in, err = startLoaded(r.ctx, r.policy, &r.cfg, s.latest.Load()); err == nil {
			in.run = r
			r.streak.born = time.Now()
			if old := s.ready.Swap(in); old != nil {
				old.close(s.ctx) // of a policy that was switched away
			}
			return
		}
		if r.ctx.Err() != nil {
			return
		}
	}
}

// startLoaded makes an instance and loads the pool into it, if there is one:
// that is where a policy may take long.
func startLoaded(ctx context.Context, p *Policy, cfg *Config, pool *core.Pool) (*instance, error) {
	in, err := newInstance(ctx, p, cfg)
	if err != nil || pool == nil {
		return in, err
	}
	if err := in.load(ctx, pool, make([]counts, len(pool.Members))); err != nil {
		in.close(ctx)
		return nil, err
	}
	return in, nil
}

// adopt takes the instance that was built, if there is one for the policy in
// use, and brings it up to date; it returns the instance now in use.
func (s *Scheduler) adopt() *instance {
	in := s.ready.Swap(nil)
	if in == nil {
		return nil
	}
	if in.run != s.run { // built before another policy took over
		s.retire(in)
		return nil
	}
	s.in = in
	s.stats.replaced.Add(1)
	s.refreshInstance()
	return s.in
}
