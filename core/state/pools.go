package state

import (
	"slices"
	"strings"
	"time"

	"github.com/caplance/caplance/core"
)

// builder builds the pools of one update.
type builder struct {
	s    *Store
	in   *inputs
	was  *core.PoolSet
	now  time.Time
	anew []*core.Service // whose members may be others

	pools map[core.ServiceID]*core.Pool // the result; nil in anew until build
}

// rebuild marks a service's pool to be built anew.
func (b *builder) rebuild(svc *core.Service) {
	if _, done := b.pools[svc.ID]; !done {
		b.pools[svc.ID] = nil
		b.anew = append(b.anew, svc)
	}
}

// services looks at all of them: some are new, others or gone.
func (b *builder) services(set *core.ServiceSet) {
	for _, svc := range set.List {
		if old := b.was.Of(svc.ID); old == nil || old.Service != svc {
			b.rebuild(svc)
		}
	}
	b.was.Each(func(p *core.Pool) {
		if set.Get(p.Service.ID) == nil {
			b.s.endService(p.Service)
			b.pools[p.Service.ID] = nil
		}
	})
}

// affected rebuilds the services of backends that came, left or changed.
func (b *builder) affected(set *core.ServiceSet, changed []*core.Backend) {
	for _, c := range changed {
		if c.Services == nil {
			for _, svc := range set.List {
				b.rebuild(svc)
			}
			return
		}
		for _, name := range c.Services {
			if svc := set.Named(name); svc != nil {
				b.rebuild(svc)
			}
		}
	}
}

// ordered rebuilds the services of backends of which the operator asks something
// else.
func (b *builder) ordered(set *core.ServiceSet, keys []core.AdminKey) {
	for _, key := range keys {
		if svc := set.Named(key.Service); svc != nil {
			b.rebuild(svc)
			continue
		}
		if key.Service != "" {
			continue
		}
		i, _ := slices.BinarySearchFunc(b.s.full, key.Backend, func(be core.Backend, name string) int { return strings.Compare(be.Name, name) })
		for ; i < len(b.s.full) && b.s.full[i].Name == key.Backend; i++ { // a static one has an entry for each service
			b.affected(set, []*core.Backend{&b.s.full[i]})
		}
	}
}

// finish gives a service's pool its tables, if it is not built anew anyway.
func (b *builder) finish(svc *core.Service) {
	if svc == nil {
		return
	}
	old := b.was.Of(svc.ID)
	if _, done := b.pools[svc.ID]; done || old == nil {
		return
	}
	if pool := b.s.finish(old, b.in); pool != old {
		b.pools[svc.ID] = pool
	}
}

// build builds the pools of anew.
func (b *builder) build() {
	by := b.backends()
	for _, svc := range b.anew {
		pool := b.s.buildPool(svc, by[svc.Name], b.in.admin, b.now)
		if old := b.was.Of(svc.ID); old != nil {
			pool.Served = pool.Served || old.Served
		}
		b.pools[svc.ID] = b.s.finish(pool, b.in)
	}
}

// backends returns those of each service that is built anew, in their order.
func (b *builder) backends() map[string][]*core.Backend {
	by := make(map[string][]*core.Backend, len(b.anew))
	for _, svc := range b.anew {
		by[svc.Name] = nil
	}
	if len(by) == 0 {
		return by
	}
	for i := range b.s.full {
		be := &b.s.full[i]
		if be.Services == nil {
			for name := range by {
				by[name] = append(by[name], be)
			}
		}
		for _, name := range be.Services {
			if list, ok := by[name]; ok && (len(list) == 0 || list[len(list)-1] != be) {
				by[name] = append(list, be)
			}
		}
	}
	return by
}

// buildPool returns a service's pool of these backends, without its tables.
func (s *Store) buildPool(svc *core.Service, of []*core.Backend, admin core.AdminSet, now time.Time) *core.Pool {
	if svc.Leaving && svc.Removed == core.ResetRemoved {
		of = nil
	}
	s.versions++
	members := make([]core.Member, 0, len(of))
	var out []core.Member
	for _, b := range of {
		order := admin.Of(b.Name, svc.Name)
		if order.Out() {
			s.outs[core.AdminKey{Backend: b.Name, Service: svc.Name}] = time.Time{}
			out = append(out, core.NewAdminMember(svc, b, order, 0, now))
			continue
		}
		members = append(members, core.NewAdminMember(svc, s.newcomer(svc, b, now), order, s.hold(svc, b), now))
	}
	s.release(svc)
	pool := core.NewPool(svc, s.versions, members)
	pool.Out = out
	return pool
}

// newcomer returns the backend as it is in a service: one that was held out is
// new there from its return on, for its flows were placed anew.
func (s *Store) newcomer(svc *core.Service, b *core.Backend, now time.Time) *core.Backend {
	key := core.AdminKey{Backend: b.Name, Service: svc.Name}
	back, ok := s.outs[key]
	switch {
	case !ok:
		return b
	case back.IsZero():
		back = now
		s.outs[key] = back
	case b.Since.After(back): // it has registered anew
		delete(s.outs, key)
		return b
	}
	since := *b
	since.Since = back
	return &since
}
