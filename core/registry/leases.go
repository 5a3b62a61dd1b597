package registry

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/protocol"
)

const (
	// settle is how long a drain lasts at least: a flow that was picked just
	// before it may not be counted yet.
	settle = time.Second
)

// entry is one backend and how it got its state.
type entry struct {
	backend core.Backend // State is kept up to date by refresh
	holder  *session     // nil: the session broke
	kept    time.Time    // then: until when
	admin   core.BackendState
	healthy bool

	unreachable string            // why its packets do not arrive, "": they do
	unwell      string            // why it is not healthy
	down        map[string]string // why services are, and protocol.Whole the backend, as its agent says
	restated    bool              // reasons are others than Apply has seen
	broke       string            // how its session ended, without a holder
	drained     bool              // out of the list, but the session goes on
	owner       owner
	drain       struct{ from, until time.Time }
}

// owner is whose a backend is.
type owner struct {
	agent string         // "" where agents prove nothing
	id    *auth.Identity // what it has proven; nil: nothing
	names int            // that it may have at once
	peer  netip.Addr     // where it came from
}

// refresh derives the state: the admin state wins over the observed one.
func (e *entry) refresh() {
	b := &e.backend
	switch {
	case e.admin != core.Active:
		b.State, b.Reason = e.admin, ""
	case e.holder == nil:
		b.State, b.Reason = core.Lost, "session of its agent broke: "+e.broke
	case !e.healthy:
		b.State, b.Reason = core.Unhealthy, cmp.Or(e.down[protocol.Whole], e.unwell)
	case e.unreachable != "":
		b.State, b.Reason = core.Unreachable, e.unreachable
	default:
		b.State, b.Reason = core.Active, ""
	}
}

// leases is the set of registered backends.
type leases struct {
	cfg      *Config
	settings *atomic.Pointer[Settings]

	mu      sync.Mutex // guards entries and changes; never held while calling out
	entries map[string]*entry
	changes uint64 // made so far

	applying sync.Mutex // held over Apply, guards the rest; taken before mu
	applied  uint64     // changes that Apply has seen
	revision uint64     // of the last Apply
}

// change runs f, which reports whether it changed anything that Apply has to
// see, and returns the revision that contains it. Once ctx, that of Run, has
// ended, nothing changes any more.
func (l *leases) change(ctx context.Context, f func() (bool, error)) (changed bool, revision uint64, err error) {
	l.mu.Lock()
	if err = ctx.Err(); err == nil {
		changed, err = f()
	}
	if changed {
		l.changes++
	}
	n := l.changes
	l.mu.Unlock()
	if err != nil {
		return false, 0, err
	}
	return changed, l.apply(n), nil
}

// apply returns the revision that contains the first n changes. Changes that
// pile up behind a slow Apply share the next call.
func (l *leases) apply(n uint64) (revision uint64) {
	l.applying.Lock()
	defer l.applying.Unlock()
	if l.applied >= n {
		return l.revision
	}
	l.mu.Lock()
	list, n := l.list(), l.changes
	l.mu.Unlock()
	l.revision, l.applied = l.cfg.Apply(list), n
	return l.revision
}

// list returns what others see, ordered by name.
func (l *leases) list() []core.Backend {
	list := make([]core.Backend, 0, len(l.entries))
	for _, e := range l.entries {
		if !e.drained {
			list = append(list, e.backend)
		}
	}
	slices.SortFunc(list, func(a, b core.Backend) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func (l *leases) sessions() (list []Session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, e := range l.entries {
		if e.holder != nil {
			h := e.holder
			list = append(list, Session{name, e.owner.agent, h.peer, h.id.Load(), *h.heard.Load(), l.settings.Load().lease(leaseKind(h.lease.Load()))})
		}
	}
	slices.SortFunc(list, func(a, b Session) int { return strings.Compare(a.Backend, b.Backend) })
	return list
}

func (l *leases) backends() []core.Backend {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.list()
}

// free returns why a REGISTER is refused now, nil if it is not.
func (l *leases) free(o owner, req protocol.Request) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.freeLocked(o, req, time.Now())
}

func (l *leases) freeLocked(o owner, req protocol.Request, now time.Time) error {
	e := l.entries[req.Name]
	if other := l.atLocked(req.Addr); o.agent == "" && other != "" && other != req.Name {
		return fmt.Errorf("data IP %v is that of backend %s already (without keys each has one)", req.Addr, other)
	}
	switch {
	case e == nil && len(l.entries) >= l.settings.Load().Limits.Backends:
		return fmt.Errorf("registry is full (%d backends; registry.limits.backends at the balancer)", len(l.entries))
	case (e == nil || e.owner.agent != o.agent) && o.agent != "" && l.ownedLocked(o.agent) >= o.names:
		return fmt.Errorf("agent %s has %d backends already, as many as it may (max_names at the balancer)", o.agent, o.names)
	case e == nil:
		return nil
	case e.holder != nil:
		return fmt.Errorf("name %s is held by the session of %s for %s", req.Name, e.holder.peer, e.backend.Addr)
	case e.backend.Addr != req.Addr:
		return fmt.Errorf("name %s is held for %s, whose session broke, for %s more", req.Name, e.backend.Addr,
			e.kept.Sub(now).Round(time.Second))
	}
	return nil
}

// atLocked returns the backend of an agent without a key that has a data IP.
func (l *leases) atLocked(data netip.Addr) string {
	for name, e := range l.entries {
		if e.owner.agent == "" && e.backend.Addr == data {
			return name
		}
	}
	return ""
}

// ownedLocked returns how many backends an agent has.
func (l *leases) ownedLocked(agent string) (n int) {
	for _, e := range l.entries {
		if e.owner.agent == agent {
			n++
		}
	}
	return n
}

// admit lists the backend of a proven REGISTER. One that takes over its own
// lost lease keeps Since, and with it its flows.
func (l *leases) admit(ctx context.Context, s *session, req protocol.Request) (b core.Backend, revision uint64, err error) {
	_, revision, err = l.change(ctx, func() (bool, error) {
		now := time.Now()
		if err := l.freeLocked(s.owner, req, now); err != nil {
			return false, err
		}
		// A v=2 agent sets up its VIPs only now; its first HEALTH says it has.
		e := &entry{holder: s, owner: s.owner, healthy: req.Version < 2, unwell: "its agent is still setting up the VIPs", backend: core.Backend{Name: req.Name, Addr: req.Addr, Since: now, Vitals: new(core.Vitals)}}
		e.set(req)
		if req.Version >= 2 {
			e.backend.VIPs = []netip.Addr{}
		}
		if old := l.entries[req.Name]; old != nil {
			if req.Version >= 2 && old.backend.VIPs != nil {
				e.backend.VIPs = old.backend.VIPs // with its flows
			}
			e.drained, e.drain = old.drained, old.drain
			e.admin, e.backend.Since = old.admin, old.backend.Since
		}
		l.setAdminLocked(e, req.State, now)
		e.refresh()
		l.entries[req.Name] = e
		b = e.backend
		return true, nil
	})
	return b, revision, err
}

// set takes over what an agent may choose about its backend.
func (e *entry) set(req protocol.Request) {
	b := &e.backend
	b.Services, b.Weight, b.MaxFlows, b.Mode = req.Services, req.Weight, req.MaxFlows, req.Mode
	b.Priority, b.Zone, b.Label, b.KernelDecap = req.Priority, req.Zone, req.Label, req.Kernel
	b.FoldsECN, b.Tells = req.Version >= 2, req.Tells && req.Version >= 2
}

// setAdminLocked puts e into the state that its agent asked for. A second DRAIN
// does not move the first one's deadline; a drained backend that comes back
// is a new member of its pools, for its flows were re-scheduled.
func (l *leases) setAdminLocked(e *entry, admin core.BackendState, now time.Time) {
	if admin == e.admin {
		return
	}
	e.admin = admin
	if admin == core.Draining {
		e.drain.from, e.drain.until = now, now.Add(l.settings.Load().DrainTimeout)
		return
	}
	if e.drained {
		e.drained, e.backend.Since = false, now
	}
}
