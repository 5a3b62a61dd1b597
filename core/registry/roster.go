package registry

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caplance/caplance/core"
)

const (
	// maxBackends keeps one peer with a loop from filling the memory.
	maxBackends = 4096
	// settle is how long a drain lasts at least: a flow that was picked just
	// before it may not be counted yet.
	settle = time.Second
)

// entry is one backend and how it got its state.
type entry struct {
	backend core.Backend // State is kept up to date by refresh
	holder  *session     // nil: the session broke
	lease   time.Time    // then: when it ends
	wish    core.BackendState
	healthy bool
	drained bool // out of the list, but the session goes on
	drain   struct{ from, until time.Time }
}

// refresh derives the state: what the agent wishes wins over what we see.
func (e *entry) refresh() {
	switch {
	case e.wish != core.Active:
		e.backend.State = e.wish
	case e.holder == nil:
		e.backend.State = core.Lost
	case !e.healthy:
		e.backend.State = core.Unhealthy
	default:
		e.backend.State = core.Active
	}
}

// roster is the set of registered backends.
type roster struct {
	cfg *Config

	changing sync.Mutex // held over a change and the OnChange call that tells it
	mu       sync.Mutex // guards entries; never held while calling out
	entries  map[string]*entry
}

// change runs f, which says whether it changed anything that OnChange tells.
// It returns once OnChange has: an agent that reads PAUSED knows that the
// datapath has it too.
func (ro *roster) change(f func() (bool, error)) error {
	ro.changing.Lock()
	defer ro.changing.Unlock()
	ro.mu.Lock()
	changed, err := f()
	var list []core.Backend
	if changed {
		for _, e := range ro.entries {
			e.refresh()
		}
		list = ro.list()
	}
	ro.mu.Unlock()
	if changed {
		ro.cfg.OnChange(list)
	}
	return err
}

// list is the snapshot that others see, ordered by name.
func (ro *roster) list() []core.Backend {
	list := make([]core.Backend, 0, len(ro.entries))
	for _, e := range ro.entries {
		if !e.drained {
			list = append(list, e.backend)
		}
	}
	slices.SortFunc(list, func(a, b core.Backend) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func (ro *roster) backends() []core.Backend {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	return ro.list()
}

// free says whether s may register name from addr now.
func (ro *roster) free(req Request) error {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	return ro.freeLocked(req, time.Now())
}

func (ro *roster) freeLocked(req Request, now time.Time) error {
	e := ro.entries[req.Name]
	switch {
	case e == nil && len(ro.entries) >= maxBackends:
		return fmt.Errorf("registry is full (%d backends)", maxBackends)
	case e == nil:
		return nil
	case e.holder != nil:
		return fmt.Errorf("name %s is held by the session of %s for %s", req.Name, e.holder.peer, e.backend.Addr)
	case e.backend.Addr != req.Addr:
		return fmt.Errorf("name %s is held for %s, whose lease ends in %s", req.Name, e.backend.Addr,
			e.lease.Sub(now).Round(time.Second))
	}
	return nil
}

// admit lists the backend of a proven REGISTER. One that takes over its own
// lost lease keeps Since, and with it its flows.
func (ro *roster) admit(s *session, req Request) (core.Backend, error) {
	var b core.Backend
	err := ro.change(func() (bool, error) {
		now := time.Now()
		if err := ro.freeLocked(req, now); err != nil {
			return false, err
		}
		// A v=2 agent sets up its VIPs only now; its first HEALTH says it has.
		e := &entry{holder: s, healthy: req.Version < 2, backend: core.Backend{
			Name: req.Name, Addr: req.Addr, Services: req.Services, Weight: req.Weight, Since: now,
			MaxFlows: req.MaxFlows, Priority: req.Priority, Zone: req.Zone, Label: req.Label, KernelDecap: req.Kernel, Mode: req.Mode,
		}}
		if old := ro.entries[req.Name]; old != nil {
			e.drained, e.drain = old.drained, old.drain
			e.wish, e.backend.Since = old.wish, old.backend.Since
		}
		ro.wishLocked(e, req.State, now)
		e.refresh()
		ro.entries[req.Name] = e
		b = e.backend
		return true, nil
	})
	return b, err
}

// wishLocked puts e into the state that its agent asked for. A second DRAIN
// does not move the first one's deadline; a drained backend that comes back
// is a new member of its pools, for its flows were re-scheduled.
func (ro *roster) wishLocked(e *entry, wish core.BackendState, now time.Time) {
	if wish == e.wish {
		return
	}
	e.wish = wish
	if wish == core.Draining {
		e.drain.from, e.drain.until = now, now.Add(ro.cfg.DrainTimeout)
		return
	}
	if e.drained {
		e.drained, e.backend.Since = false, now
	}
}
