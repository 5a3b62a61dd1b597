package reload

import (
	"context"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/state"
	"github.com/caplance/caplance/core/workers"
)

// resetGrace is how long packets of a removed service's flows come to the host,
// which answers them with resets.
const resetGrace = 5 * time.Second

// leaving is what is known of a service that the configuration has dropped.
type leaving struct {
	since time.Time
	idle  int // looks at it that found no flow, in a row
}

// EndLeaving ends removed services whose flows are over.
func (r *Reloader) EndLeaving(context.Context) error {
	s := r.Store.Snapshot()
	for _, svc := range s.Services.List {
		if !svc.Leaving {
			continue
		}
		l := r.left[svc.ID]
		if l == nil {
			l = &leaving{since: time.Now()}
			if r.left == nil {
				r.left = map[core.ServiceID]*leaving{}
			}
			r.left[svc.ID] = l
		}
		if r.FlowsOf(svc.ID) == 0 {
			l.idle++
		} else {
			l.idle = 0
		}
		over := l.idle > 4 && time.Since(l.since) > 3*time.Second
		if svc.Removed == core.ResetRemoved {
			over = time.Since(l.since) > resetGrace
		}
		if over {
			r.forget(svc)
			delete(r.left, svc.ID)
		}
	}
	return nil
}

// forget ends a removed service for good.
func (r *Reloader) forget(svc *core.Service) {
	revision, _ := r.Store.Update("removed service", func(dr *state.Draft) error {
		dr.Forget(svc.ID)
		return nil
	})
	r.Log.Info("removed service is over", "service", svc.Name)
	ctx, cancel := context.WithTimeout(context.Background(), workers.OrderTimeout)
	defer cancel()
	if err := r.Loop.Wait(ctx, revision); err != nil {
		r.Log.Warn("machine is late", "err", err)
	}
	r.forgetPolicies(ctx)
}

// forgetPolicies ends the policies of services that are gone, once no worker
// uses them.
func (r *Reloader) forgetPolicies(ctx context.Context) {
	if err := r.Workers.Sync(ctx); err != nil { // they have the new services by then
		return
	}
	s := r.Store.Snapshot()
	if err := r.Policies.Forget(func(name string) bool { return s.Services.Named(name) != nil }); err != nil {
		r.Log.Warn("policy not freed", "err", err)
	}
}
