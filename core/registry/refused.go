package registry

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/protocol"
)

// refused returns why nobody can have a name or a data IP, nil if somebody can.
func (c *Config) refused(name string, addr netip.Addr) error {
	if c.Refused == nil {
		return nil
	}
	return c.Refused(name, addr)
}

// Recheck has those deregistered soon whose data IP is refused by now, or whose
// agent may not have it. It does not block and may be called at any time.
func (r *Registry) Recheck() {
	select {
	case r.recheck <- struct{}{}:
	default: // it is to come
	}
}

// evict deregisters them.
func (r *Registry) evict(ctx context.Context) {
	all := r.leases.all()
	set, owned := r.settings.Load(), map[string]int{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		e := all[name]
		reason := r.cfg.refused(name, e.backend.Addr)
		if reason == nil {
			reason = set.forbids(&e.backend, e.owner, owned[e.owner.agent])
		}
		if reason == nil {
			owned[e.owner.agent]++
			continue
		}
		r.remove(ctx, name, e.is, reason)
	}
}

// remove takes a backend off the list, if it is still this one, and hangs up on
// its agent.
func (r *Registry) remove(ctx context.Context, name string, is *entry, reason error) bool {
	holder, ok := r.leases.evict(ctx, name, is)
	if !ok {
		return false
	}
	r.cfg.Log.Warn("backend removed", "backend", name, "err", reason)
	if holder != nil {
		r.wg.Go(func() { // it may not read
			holder.write(fmt.Sprintf("%s %s %v", protocol.Deregistered, name, reason))
			holder.comm.Close()
		})
	}
	return true
}

// forbids returns why a backend's agent, who has so many others, may not have it any
// more. One that has proven nothing stays until its lease ends, so that agents can
// come back with what they have.
func (s *Settings) forbids(b *core.Backend, o owner, others int) error {
	switch {
	case s.Own == nil && o.agent == "":
		return s.allows(b.Addr, o.peer)
	case s.Own == nil || o.agent == "":
		return nil
	}
	a := auth.Named(s.Known, o.agent)
	if a == nil {
		return fmt.Errorf("agent %s is no longer listed by the balancer", o.agent)
	}
	if now, err := s.agent(o.id); err == nil && now.Name != a.Name { // the name's pattern means another
		return now.Permits(b.Name, b.Addr, o.peer, b.Services, b.Weight)
	}
	if others >= a.MaxNames {
		return fmt.Errorf("agent %s has %d other backends, as many as it may (max_names at the balancer)", o.agent, others)
	}
	return a.Permits(b.Name, b.Addr, o.peer, b.Services, b.Weight)
}

// held is a backend and whose it is.
type held struct {
	backend core.Backend
	owner   owner
	is      *entry // for evict alone
}

// all returns the backends, drained ones too.
func (l *leases) all() map[string]held {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[string]held, len(l.entries))
	for name, e := range l.entries {
		out[name] = held{e.backend, e.owner, e}
	}
	return out
}

// evict removes a backend, if it is still this one, and returns whose it was; nil:
// its session is gone.
func (l *leases) evict(ctx context.Context, name string, is *entry) (holder *session, ok bool) {
	ok, _, _ = l.change(ctx, func() (bool, error) {
		e := l.entries[name]
		if e == nil || e != is {
			return false, nil
		}
		holder = e.holder
		delete(l.entries, name)
		return true, nil
	})
	return holder, ok
}
