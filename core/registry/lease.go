package registry

import (
	"time"

	"github.com/caplance/caplance/core"
)

// held is s's entry, nil when another session has taken it over.
func (ro *roster) held(s *session) *entry {
	if e := ro.entries[s.name]; e != nil && e.holder == s {
		return e
	}
	return nil
}

// wish is PAUSE, DRAIN and RESUME.
func (ro *roster) wish(s *session, wish core.BackendState) {
	ro.change(func() (bool, error) {
		e := ro.held(s)
		if e == nil || e.wish == wish {
			return false, nil
		}
		ro.wishLocked(e, wish, time.Now())
		return true, nil
	})
}

// health is HEALTH. Load alone is no change worth telling: every heartbeat
// would rebuild the pools.
func (ro *roster) health(s *session, code int, load string) {
	ro.mu.Lock()
	e := ro.held(s)
	same := e == nil || e.healthy == (code == 200)
	if e != nil {
		e.backend.Load = load
	}
	ro.mu.Unlock()
	if same {
		return
	}
	ro.change(func() (bool, error) {
		if e := ro.held(s); e != nil {
			e.healthy = code == 200
		}
		return true, nil
	})
}

// status is what a v=2 agent is told with every HEALTHACK.
func (ro *roster) status(s *session) string {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	switch e := ro.held(s); {
	case e == nil:
		return "gone"
	case e.drained:
		return "drained"
	default:
		return e.backend.State.String()
	}
}

// lost is the end of a session without DEREGISTER: the backend keeps its flows
// until the lease ends, which the last line renewed.
func (ro *roster) lost(s *session) {
	ro.change(func() (bool, error) {
		e := ro.held(s)
		if e == nil {
			return false, nil
		}
		e.holder, e.lease = nil, s.seen.Add(ro.cfg.ReadTimeout)
		return true, nil
	})
}

// remove is DEREGISTER and the end of the lease.
func (ro *roster) remove(s *session) {
	ro.change(func() (bool, error) {
		if ro.held(s) == nil {
			return false, nil
		}
		delete(ro.entries, s.name)
		return true, nil
	})
}

// sweep does what is due by time alone: leases of lost backends end, and
// drained ones leave their pools. It returns the names of both.
func (ro *roster) sweep(now time.Time) (expired, drained []string) {
	for _, name := range ro.draining(now) {
		if ro.cfg.Active(name) == 0 { // asked without a lock
			drained = append(drained, name)
		}
	}
	ro.change(func() (bool, error) {
		for name, e := range ro.entries {
			if e.wish == core.Draining && !e.drained && !now.Before(e.drain.until) {
				drained = append(drained, name)
			}
			if e.holder == nil && !now.Before(e.lease) {
				expired = append(expired, name)
				delete(ro.entries, name)
			}
		}
		for _, name := range drained {
			if e := ro.entries[name]; e != nil && e.wish == core.Draining {
				e.drained = true
			}
		}
		return len(expired)+len(drained) > 0, nil
	})
	return expired, drained
}

// draining lists the backends whose drain ends as soon as they are idle.
func (ro *roster) draining(now time.Time) (names []string) {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	for name, e := range ro.entries {
		if e.wish == core.Draining && !e.drained && now.Sub(e.drain.from) >= settle && now.Before(e.drain.until) {
			names = append(names, name)
		}
	}
	return names
}
