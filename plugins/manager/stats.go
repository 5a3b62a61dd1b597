package manager

import (
	"time"

	"github.com/caplance/caplance/plugins/host"
)

// Stats is how a service's policy does, summed over the workers.
type Stats struct {
	host.Stats
	Spec      string // as configured or asked for
	Since     time.Time
	Previous  string // what a rollback brings back, "" for nothing
	HasTable  bool
	Table     TableStats
	Shadow    host.ShadowStats
	HasShadow bool
}

// TableStats is the table of a policy in table mode.
type TableStats struct {
	Built      time.Time
	Took       time.Duration
	Disruption float64 // share of the slots moved without need by the last change
	Err        error
}

// Stats returns how a service's policy does; ok is false for a service without
// one.
func (m *Manager) Stats(service string) (st Stats, ok bool) {
	sp := m.get(service)
	if sp == nil {
		return st, false
	}
	st.Stats = sp.stats()
	st.Shadow, st.HasShadow = sp.shadowStats()
	sp.mu.Lock()
	defer sp.mu.Unlock()
	st.Spec, st.Since, st.HasTable = sp.current.spec, sp.current.since, sp.current.policy.HasTable()
	if sp.previous != nil {
		st.Previous = sp.previous.spec
	}
	t := sp.table
	st.Table = TableStats{t.built, t.took, t.disruption, t.err}
	return st, true
}

func (sp *Service) stats() (sum host.Stats) {
	for i, s := range sp.all() {
		st := s.Stats()
		sum.Policy = st.Policy
		for j := range sum.Picks {
			sum.Picks[j] += st.Picks[j]
		}
		sum.NoChoice += st.NoChoice
		sum.Failures += st.Failures
		for j := range sum.Causes {
			sum.Causes[j] += st.Causes[j]
		}
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

func (sp *Service) shadowStats() (sum host.ShadowStats, ok bool) {
	sum.Would = map[string]uint64{}
	for _, s := range sp.all() {
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

// Specs returns what a service's policy and shadow are, as configured or asked
// for; ok is false for an unknown service.
func (m *Manager) Specs(service string) (policy, shadow string, ok bool) {
	sp := m.get(service)
	if sp == nil {
		return "", "", false
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.shadow != nil {
		shadow = sp.shadow.spec
	}
	return sp.current.spec, shadow, true
}
