package manager

import (
	"context"
	"slices"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/state"
)

// tableState is how a service in table mode stands; guarded by its Service.
type tableState struct {
	built      time.Time
	took       time.Duration
	disruption float64 // of the last change: share of the slots moved without need
	err        error

	by       *version         // whose table it is,
	backends []core.Candidate // and for whom
}

// builder builds the lookup tables that the snapshots' pools want: one at a
// time, off the packet path. A burst of changes is one table.
type builder struct {
	m     *Manager
	built map[core.ServiceID][]core.Candidate // for whom the lookup tables are
	done  map[core.ServiceID]looked
}

// looked is what a service was when there was nothing to build for it.
type looked struct {
	pool    *core.Pool
	version *version // nil: it has no policy
}

// Wake makes Run look at the tables again.
func (m *Manager) Wake() {
	select {
	case m.wake <- struct{}{}:
	default: // it is going to be
	}
}

// Run builds the services' lookup tables, and those of policies in table mode,
// until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	b := &builder{m: m, built: map[core.ServiceID][]core.Candidate{}, done: map[core.ServiceID]looked{}}
	m.cfg.Store.Notify(func(*core.Snapshot) { m.Wake() })
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
			b.pass(ctx)
		}
	}
}

// String names the task.
func (m *Manager) String() string { return "policies" }

// pass looks at every service once, at those that have not changed no closer.
func (b *builder) pass(ctx context.Context) {
	for id := 0; ctx.Err() == nil; id++ {
		snap := b.m.cfg.Store.Snapshot() // the newest each time
		if id >= snap.Services.Len() {
			return
		}
		svc := snap.Services.Get(core.ServiceID(id))
		if svc == nil {
			delete(b.built, core.ServiceID(id))
			delete(b.done, core.ServiceID(id))
			continue
		}
		b.visit(ctx, snap.Pools.Of(svc.ID))
	}
}

// visit builds a service's tables if they are to be others.
func (b *builder) visit(ctx context.Context, pool *core.Pool) {
	id, sp := pool.Service.ID, b.m.get(pool.Service.Name)
	now := looked{pool: pool}
	if sp != nil {
		now.version = sp.version()
	}
	if b.done[id] == now {
		return
	}
	b.lookup(pool)
	if sp != nil {
		b.m.buildTable(ctx, sp, pool)
	}
	if ctx.Err() == nil {
		now.pool = b.m.cfg.Store.Snapshot().Pools.Of(id)
	}
	if now.pool != nil && now.pool.SameMembers(pool) {
		b.done[id] = now
	}
}

// version returns the one that schedules the service.
func (sp *Service) version() *version {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return sp.current
}

// candidates returns the pool's, in an order of their own.
func candidates(p *core.Pool) []core.Candidate {
	list := p.Candidates()
	for i := range list {
		list[i].Index = 0
	}
	slices.SortFunc(list, func(a, b core.Candidate) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return list
}

// lookup builds a service's lookup table if its backends are others. A service
// that never had any needs none.
func (b *builder) lookup(p *core.Pool) {
	id, list := p.Service.ID, candidates(p)
	if slices.Equal(b.built[id], list) && (p.Lookup != nil || len(list) == 0) {
		return
	}
	if p.Service.Leaving {
		return
	}
	l := core.NewLookup(p.Candidates())
	b.built[id] = list
	b.m.update("lookup", func(d *state.Draft) { d.SetLookup(id, l) })
}

func (m *Manager) update(what string, f func(*state.Draft)) {
	_, _ = m.cfg.Store.Update(what, func(d *state.Draft) error { // it cannot fail
		f(d)
		return nil
	})
}

// buildTable has a policy in table mode fill a table for the pool, and takes
// away that of one that has left the mode, or has no backend to choose.
func (m *Manager) buildTable(ctx context.Context, sp *Service, pool *core.Pool) {
	id := pool.Service.ID
	sp.mu.Lock()
	v, last := sp.current, sp.table
	sp.mu.Unlock()
	if !v.policy.HasTable() || pool.Eligible == 0 { // the kernel would go on placing flows at those that drain
		if pool.Table != nil {
			m.update("table", func(d *state.Draft) { d.SetTable(id, nil) })
		}
		return
	}
	backends := candidates(pool)
	if last.by == v && slices.Equal(last.backends, backends) && (pool.Table != nil || last.err != nil) {
		return // what changed is nothing to the table
	}
	start := time.Now()
	m.changing.Lock() // the version must not be dropped meanwhile
	table, err := v.policy.BuildTable(ctx, m.config(sp, v, 0), pool)
	m.changing.Unlock()
	st := tableState{built: time.Now(), took: time.Since(start), err: err, by: v, backends: backends}
	if err != nil {
		if ctx.Err() == nil {
			m.cfg.Log.Error("table not built: flows go by the one before, or by the lookup table", "service", sp.name, "err", err)
		}
	} else {
		if pool.Table != nil {
			st.disruption = core.Disruption(pool, pool.Table, table)
		}
		m.cfg.Log.Info("table built", "service", sp.name, "policy", v.spec, "backends", pool.Eligible, "took", st.took, "disruption", st.disruption)
		table = m.shared(id, table)
		m.update("table", func(d *state.Draft) { d.SetTable(id, table) })
	}
	sp.mu.Lock()
	sp.table = st
	sp.mu.Unlock()
}

// shared returns a service's lookup table in the place of an equal one of its
// policy's: of many services, that is much memory.
func (m *Manager) shared(id core.ServiceID, table *core.Lookup) *core.Lookup {
	pool := m.cfg.Store.Snapshot().Pools.Of(id)
	if pool != nil && pool.Lookup != nil && pool.Lookup.Equal(table) {
		return pool.Lookup
	}
	return table
}
