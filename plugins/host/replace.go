package host

import (
	"fmt"
	"time"
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

// streak counts failures in a row. It is handed over with the instance: the
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
	broken := s.in
	s.in = nil
	if !s.streak.born.IsZero() && time.Since(s.streak.born) >= calm {
		s.streak.failures = 0
	}
	s.building.Go(func() {
		broken.close(s.ctx)
		s.replace(err)
	})
}

// replace builds an instance with growing pauses until one lives or the policy
// is in quarantine. It runs in its own goroutine.
func (s *Scheduler) replace(err error) {
	for {
		s.streak.failures++
		s.stats.failed(err)
		if s.streak.failures >= maxStreak {
			s.stats.quarantined.Store(true)
			s.cfg.Log.Error("policy is in quarantine: its flows go by the lookup table", "failures", s.streak.failures, "error", err)
			return
		}
		pause := min(firstBackoff<<(s.streak.failures-1), maxBackoff)
		s.cfg.Log.Warn("policy failed: the lookup table answers until a new instance is ready", "pause", pause, "error", err)
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(pause):
		}
		if err = s.build(); err == nil {
			return
		}
	}
}

// build makes an instance, loads the latest pool into it, which is where a
// policy may take long, and puts it up for adoption.
func (s *Scheduler) build() error {
	in, err := newInstance(s.ctx, s.policy, &s.cfg)
	if err != nil {
		return err
	}
	if p := s.latest.Load(); p != nil {
		if err := in.load(s.ctx, p, make([]counts, len(p.Members))); err != nil {
			in.close(s.ctx)
			return err
		}
	}
	s.streak.born = time.Now()
	s.ready.Store(in)
	return nil
}

// adopt takes the instance that was built, if there is one, and brings it up
// to date; it returns the instance now in use.
func (s *Scheduler) adopt() *instance {
	in := s.ready.Swap(nil)
	if in == nil {
		return nil
	}
	s.in = in
	s.stats.replaced.Add(1)
	switch {
	case s.pool == nil:
	case in.pool != s.pool:
		s.load()
	default:
		in.putCounts(s.counts)
	}
	return s.in
}
