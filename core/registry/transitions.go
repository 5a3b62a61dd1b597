package registry

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/protocol"
)

// held returns s's entry, nil when another session has taken it over.
func (l *leases) held(s *session) *entry {
	if e := l.entries[s.name]; e != nil && e.holder == s {
		return e
	}
	return nil
}

// setAdmin carries out PAUSE, DRAIN and RESUME.
func (l *leases) setAdmin(ctx context.Context, s *session, admin core.BackendState) (changed bool, revision uint64, err error) {
	return l.change(ctx, func() (bool, error) {
		e := l.held(s)
		if e == nil || e.admin == admin {
			return false, nil
		}
		l.setAdminLocked(e, admin, time.Now())
		e.refresh()
		return true, nil
	})
}

// update carries out REGISTER in a registered session. State and Since stay, and with
// Since the flows.
func (l *leases) update(ctx context.Context, s *session, req protocol.Request) (changed bool, revision uint64, err error) {
	return l.change(ctx, func() (bool, error) {
		e := l.held(s)
		if e == nil {
			return false, nil
		}
		before := e.backend
		e.set(req)
		return !reflect.DeepEqual(before, e.backend), nil
	})
}

// health carries out HEALTH, which has acknowledged these VIPs; nil is no news.
// It reports whether the agent has changed its state, or reasons.
func (l *leases) health(ctx context.Context, s *session, req protocol.Request, vips []netip.Addr) (turned bool, err error) {
	healthy := req.Code == 200
	if l.sameHealth(s, healthy, req.Load) && vips == nil {
		return false, ctx.Err()
	}
	_, _, err = l.change(ctx, func() (bool, error) {
		e := l.held(s)
		if e == nil {
			return false, nil
		}
		turned = e.healthy != healthy || e.restated
		e.restated = false
		e.healthy, e.unwell = healthy, fmt.Sprintf("its agent reports HEALTH %d", req.Code)
		e.refresh()
		return e.hasVIPs(vips) || turned, nil
	})
	return turned, err
}

// hasVIPs notes what the agent has set up and reports whether that is a change.
func (e *entry) hasVIPs(vips []netip.Addr) bool {
	if vips == nil || slices.Equal(vips, e.backend.VIPs) {
		return false
	}
	e.backend.VIPs = vips
	return true
}

// forgetVIPs takes the VIPs that are no longer offered off those that the agent
// has set up: by when it has them again, it tells.
func (l *leases) forgetVIPs(ctx context.Context, s *session, offered []netip.Addr) {
	l.change(ctx, func() (bool, error) {
		e := l.held(s)
		if e == nil || e.backend.VIPs == nil {
			return false, nil
		}
		kept := slices.DeleteFunc(slices.Clone(e.backend.VIPs), func(vip netip.Addr) bool { return !slices.Contains(offered, vip) })
		return e.hasVIPs(kept), nil
	})
}

// sameHealth notes the load, which alone is no change, or every heartbeat would
// rebuild the pools. It reports whether there is no other, and no reason to be published.
func (l *leases) sameHealth(s *session, healthy bool, load string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.held(s)
	if e == nil {
		return true
	}
	e.backend.Vitals.SetLoad(core.ParseLoad(load))
	return e.healthy == healthy && !e.restated
}

// status returns what a HEALTHACK reports to a v=2 agent.
func (l *leases) status(s *session) (b core.Backend, state string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch e := l.held(s); {
	case e == nil:
		return b, "gone"
	case e.drained:
		return e.backend, "drained"
	default:
		return e.backend, e.backend.State.String()
	}
}

// lost ends the holding of a backend without DEREGISTER: it keeps its flows for
// as long as its agent may take to come back.
func (l *leases) lost(ctx context.Context, s *session, why error) {
	l.change(ctx, func() (bool, error) {
		e := l.held(s)
		if e == nil {
			return false, nil
		}
		e.holder, e.kept = nil, time.Now().Add(l.settings.Load().Rejoin)
		e.broke = why.Error()
		e.refresh()
		return true, nil
	})
}

// remove carries out DEREGISTER and the end of the lease.
func (l *leases) remove(ctx context.Context, s *session) (revision uint64, err error) {
	_, revision, err = l.change(ctx, func() (bool, error) {
		if l.held(s) == nil {
			return false, nil
		}
		delete(l.entries, s.name)
		return true, nil
	})
	return revision, err
}
