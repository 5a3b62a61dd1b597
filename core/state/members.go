package state

import (
	"net/netip"
	"slices"

	"github.com/caplance/caplance/core"
)

// holder is who has a handle; a re-registration is another membership.
type holder struct {
	handle core.Handle
	since  int64
	addr   netip.Addr
	kept   bool   // a predecessor's, that has not come back yet
	pool   uint64 // the last version of the pool with it
}

// keptPool is a service's pool as a predecessor had it.
type keptPool struct {
	lookup *core.LateLookup // over those that were eligible
	names  []string
}

// hold returns the handle of a backend in a service. One that comes back from
// the same address to a successor process keeps what it had.
func (s *Store) hold(svc *core.Service, b *core.Backend) core.Handle {
	of := s.held[svc.ID]
	if of == nil {
		of = map[string]*holder{}
		s.held[svc.ID] = of
	}
	h := of[b.Name]
	switch {
	case h == nil:
	case h.kept && h.addr == b.Addr:
		h.kept, h.since, h.pool = false, b.Since.UnixNano(), s.versions
		return h.handle
	case !h.kept && h.since == b.Since.UnixNano():
		h.pool = s.versions
		return h.handle
	default:
		s.slots.Release(h.handle)
	}
	h = &holder{handle: s.slots.Take(), since: b.Since.UnixNano(), addr: b.Addr, pool: s.versions}
	of[b.Name] = h
	return h.handle
}

// release frees the handles of those who are not in the newest version of a
// service's pool.
func (s *Store) release(svc *core.Service) {
	for name, h := range s.held[svc.ID] {
		if !h.kept && h.pool != s.versions {
			s.slots.Release(h.handle)
			delete(s.held[svc.ID], name)
		}
	}
}

// endService frees all that a service had.
func (s *Store) endService(svc *core.Service) {
	for _, h := range s.held[svc.ID] {
		s.slots.Release(h.handle)
	}
	delete(s.held, svc.ID)
	delete(s.late, svc.Name)
	s.services.keep(func(name string) bool { return name != svc.Name })
}

// expects reports whether backends of a predecessor are waited for.
func (s *Store) expects() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.kept) > 0
}

// Returned reports whether all backends of a predecessor are back and have said
// how they are. Those that have not are left out by lookup tables, which would
// send their flows astray.
func (s *Store) Returned() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	snap := s.Snapshot()
	for name, k := range s.kept {
		svc := snap.Services.Named(name)
		if svc == nil {
			continue
		}
		pool := snap.Pools.Of(svc.ID)
		for _, b := range k.names {
			if slices.ContainsFunc(pool.Out, func(m core.Member) bool { return m.Name == b }) {
				continue
			}
			if m := pool.Named(b); m == nil || m.State == core.Unhealthy {
				return false
			}
		}
	}
	return true
}
