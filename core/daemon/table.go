package daemon

import (
	"context"
	"slices"
	"time"

	"github.com/caplance/caplance/core"
)

// tableState is how a service in table mode stands; guarded by its
// servicePolicy.
type tableState struct {
	built      time.Time
	took       time.Duration
	disruption float64 // of the last change: share of the slots moved without need
	err        error

	by       *version         // whose table it is,
	backends []core.Candidate // and for whom
}

// tableMode says whether the service's policy fills a table.
func (sp *servicePolicy) tableMode() bool {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return sp.current.policy.HasTable()
}

// tables asks for a service's table to be built, or taken away.
func (p *pools) tables(service uint16) {
	select {
	case p.rebuild[service] <- struct{}{}:
	default: // it is going to be
	}
}

// keepTable builds a service's tables, one after the other, off the path.
func (s *Server) keepTable(ctx context.Context, sp *servicePolicy) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.pools.rebuild[sp.svc.Index]:
			s.buildTable(ctx, sp)
		}
	}
}

// buildTable has the policy fill a table for the current pool and publishes it
// if the pool is still the same; otherwise the change has asked for another.
func (s *Server) buildTable(ctx context.Context, sp *servicePolicy) {
	pool := s.pools.out.Of(sp.svc.Index)
	if !sp.tableMode() {
		if pool.Table != nil {
			s.pools.publishTable(pool, nil)
		}
		return
	}
	if pool.Eligible == 0 {
		return
	}
	backends := pool.Candidates()
	sp.mu.Lock()
	v, last := sp.current, sp.table
	sp.mu.Unlock()
	if pool.Table != nil && last.err == nil && last.by == v && slices.Equal(last.backends, backends) {
		return // what changed is nothing to the table
	}
	start := time.Now()
	table, err := v.policy.BuildTable(ctx, s.policies.config(sp, v, 0), pool)
	st := tableState{built: time.Now(), took: time.Since(start), err: err, by: v, backends: backends}
	if err != nil {
		s.log.Error("table not built: flows go by the one before, or by the lookup table", "service", sp.svc.Name, "err", err)
	} else {
		if pool.Table != nil {
			st.disruption = core.Disruption(pool.Table, table)
		}
		s.log.Info("table built", "service", sp.svc.Name, "policy", v.spec, "backends", pool.Eligible, "took", st.took, "disruption", st.disruption)
		if !s.pools.publishTable(pool, table) {
			return // the newer pool has asked for another
		}
	}
	sp.mu.Lock()
	sp.table = st
	sp.mu.Unlock()
}

// publishTable publishes pool with a table, unless there is a newer pool.
func (p *pools) publishTable(pool *core.Pool, t *core.Lookup) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out.Of(pool.Service.Index).Version != pool.Version {
		return false
	}
	pool = pool.WithTable(t)
	p.setLookup(pool)
	p.out.Publish(pool)
	return true
}
