package host

import (
	"sync/atomic"

	"github.com/caplance/caplance/core"
)

// Stats is what became of a scheduler's picks since it was made.
type Stats struct {
	Policy      string
	Picks       [core.Decisions]uint64 // by core.Decision
	NoChoice    uint64                 // answers -1 and -3; part of Picks[ByFallback]
	Failures    uint64                 // traps, impossible answers, failed starts
	Causes      [Causes]uint64         // the failures by Cause
	Replaced    uint64                 // instances adopted after a failure
	Quarantined bool                   // the policy is no longer asked
	LastError   string                 // of the last failure, with the guest's stack
	Metrics     []Metric               // the policy's own
}

// CausesByName returns the failures by Cause's name, all of them.
func (s *Stats) CausesByName() map[string]uint64 {
	out := make(map[string]uint64, Causes)
	for cause, n := range s.Causes {
		out[Cause(cause).String()] = n
	}
	return out
}

type stats struct {
	policy, shadow               atomic.Pointer[string]
	picks                        [core.Decisions]atomic.Uint64
	noChoice, failures, replaced atomic.Uint64
	causes                       [Causes]atomic.Uint64
	quarantined                  atomic.Bool
	lastError                    atomic.Pointer[string]
	names                        atomic.Pointer[[]string]
	metrics                      metrics
}

// begin notes that another policy took over.
func (s *stats) begin(policy string, metrics []string) {
	s.policy.Store(&policy)
	s.names.Store(&metrics)
	for i := range s.metrics {
		s.metrics[i].Store(0)
	}
	s.quarantined.Store(false)
}

func (s *stats) failed(err error) {
	text := err.Error()
	s.lastError.Store(&text)
	s.causes[causeOf(err)].Add(1)
	s.failures.Add(1) // last: whoever sees it sees the others
}

// Stats may be called from any goroutine at any time.
func (s *Scheduler) Stats() Stats {
	out := Stats{
		Policy:      *s.stats.policy.Load(),
		NoChoice:    s.stats.noChoice.Load(),
		Failures:    s.stats.failures.Load(),
		Replaced:    s.stats.replaced.Load(),
		Quarantined: s.stats.quarantined.Load(),
	}
	for i := range out.Picks {
		out.Picks[i] = s.stats.picks[i].Load()
	}
	for i := range out.Causes {
		out.Causes[i] = s.stats.causes[i].Load()
	}
	for i, name := range *s.stats.names.Load() {
		out.Metrics = append(out.Metrics, Metric{name, s.stats.metrics[i].Load()})
	}
	if e := s.stats.lastError.Load(); e != nil {
		out.LastError = *e
	}
	return out
}
