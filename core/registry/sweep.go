package registry

import (
	"context"
	"time"

	"github.com/caplance/caplance/core"
)

// sweep does what is due by time alone: leases of lost backends end, and
// drained ones leave their pools. It returns the names of both.
func (l *leases) sweep(ctx context.Context, now time.Time) (expired, drained []string) {
	counted := now
	if l.cfg.CountedAt != nil {
		counted = l.cfg.CountedAt()
	}
	for _, b := range l.draining(now, counted) {
		if l.cfg.Active(b) == 0 && (l.cfg.Live == nil || l.cfg.Live(b.Name) == 0) { // asked without a lock
			drained = append(drained, b.Name)
		}
	}
	_, _, err := l.change(ctx, func() (bool, error) {
		for name, e := range l.entries {
			if e.admin == core.Draining && !e.drained && !now.Before(e.drain.until) {
				drained = append(drained, name)
			}
			if e.holder == nil && !now.Before(e.kept) {
				expired = append(expired, name)
				delete(l.entries, name)
			}
		}
		for _, name := range drained {
			if e := l.entries[name]; e != nil && e.admin == core.Draining {
				e.drained = true
			}
		}
		return len(expired)+len(drained) > 0, nil
	})
	if err != nil {
		return nil, nil
	}
	return expired, drained
}

// draining lists the backends whose drain ends as soon as they are idle: all flows
// were counted that may have been placed before it held.
func (l *leases) draining(now, counted time.Time) (list []core.Backend) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.entries {
		if e.admin == core.Draining && !e.drained && counted.Sub(e.drain.from) >= settle && now.Before(e.drain.until) {
			list = append(list, e.backend)
		}
	}
	return list
}
