package host

import (
	"sync/atomic"

	"github.com/caplance/caplance/core"
)

// A shadow is a second policy that is asked about every new flow after the
// live one has decided. Its answers are only counted: how often it agrees, and
// who would have got the flows.

// tally counts a shadow's answers for one pool. Its counters may be read by
// anyone.
type tally struct {
	pool          *core.Pool
	would         []atomic.Uint64 // by index in pool.Members
	asked, agreed atomic.Uint64
}

// newTally starts with the counts of the pool before, of the members that are
// still there.
func newTally(p *core.Pool, before *tally) *tally {
	t := &tally{pool: p, would: make([]atomic.Uint64, len(p.Members))}
	if before == nil {
		return t
	}
	t.asked.Store(before.asked.Load())
	t.agreed.Store(before.agreed.Load())
	for i := range p.Members {
		if j, ok := before.pool.Find(p.Members[i].Handle); ok {
			t.would[i].Store(before.would[j].Load())
		}
	}
	return t
}

// SetShadow makes sh the shadow, nil for none, and returns the one before,
// which the caller closes. Like Pick it belongs to the scheduler's goroutine.
func (s *Scheduler) SetShadow(sh *Scheduler) (before *Scheduler) {
	before, s.shadow = s.shadow, sh
	s.tally.Store(nil)
	if sh != nil {
		s.stats.shadow.Store(sh.stats.policy.Load())
		if s.pool != nil {
			sh.SetPool(s.pool.WithTable(nil))
			s.tally.Store(newTally(s.pool, nil))
		}
	}
	return before
}

// shadowPool tells the shadow of another pool.
func (s *Scheduler) shadowPool(p *core.Pool) {
	if s.shadow != nil {
		s.shadow.SetPool(p.WithTable(nil))
		s.tally.Store(newTally(p, s.tally.Load()))
	}
}

// ask has the shadow pick, too, and compares. It is on the hot path, but only
// where there is a shadow.
func (s *Scheduler) ask(f *core.NewFlow, live int) {
	s.shadowArg = *f
	s.shadowArg.Attempt = 0
	i, _ := s.shadow.Pick(&s.shadowArg)
	t := s.tally.Load()
	t.asked.Add(1)
	if i == live {
		t.agreed.Add(1)
	}
	if i >= 0 {
		t.would[i].Add(1)
	}
}

// ShadowStats is what a shadow would have done.
type ShadowStats struct {
	Policy        string
	Asked, Agreed uint64
	Would         map[string]uint64 // flows that a backend would have got, by its name
}

// Shadow may be called from any goroutine; ok is false where there is none.
func (s *Scheduler) Shadow() (st ShadowStats, ok bool) {
	t := s.tally.Load()
	if t == nil {
		return st, false
	}
	st = ShadowStats{Policy: *s.stats.shadow.Load(), Asked: t.asked.Load(), Agreed: t.agreed.Load(), Would: map[string]uint64{}}
	for i := range t.would {
		st.Would[t.pool.Members[i].Name] += t.would[i].Load()
	}
	return st, true
}
