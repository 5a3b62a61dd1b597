// Package status is the read model of a running balancer: what caplancectl, the
// metrics and the page show is put together here from the snapshot, the
// counters and the parts that do the work. It changes nothing.
//
//	m := &status.Model{Store: store, Counters: set, Manager: manager, …}
//	rows := m.Backends()
package status

import (
	"context"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/counters"
	"github.com/caplance/caplance/core/datapath"
	"github.com/caplance/caplance/core/events"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/forward"
	"github.com/caplance/caplance/core/reconcile"
	"github.com/caplance/caplance/core/state"
	"github.com/caplance/caplance/core/verdict"
	"github.com/caplance/caplance/plugins/manager"
)

// Model is what the answers are made of. Its methods may be called
// concurrently.
type Model struct {
	Store    *state.Store
	Counters *counters.Set
	Manager  *manager.Manager
	Workers  func() []*Worker
	Fast     FastPath
	Counted  func(map[string]uint64) // adds what is counted outside the fast path
	Targets  func() []reconcile.Status
	Passed   func() time.Time                                 // when the reconcile loop had last seen to all targets
	Wait     func(ctx context.Context, revision uint64) error // until the machine is as a revision says
	Unsaved  func() string                                    // why the state could not be saved, "" if it was
	Doubts   func() []string                                  // what the configuration allows and better did not
	Terms    func() ([]api.CertificateRow, error)             // of the certificates in use, and why they are of no use
	Peers    func() []api.AgentSession                        // the sessions that there are
	Orders   func() []api.AdminRow                            // of the operator, about backends
	Repairs  Repairs
	Log      *events.Ring // what was logged last
	// Method returns how packets reach userspace.
	Method  func() string
	Capture func(map[string]uint64) // adds what the ruleset has counted
	Started time.Time
}

// FastPath is what the model reads of the fast path.
type FastPath interface {
	Kernel() *fastpath.Balancer // nil while it is off
	// Datapath returns how established flows are forwarded now, and why not
	// otherwise.
	Datapath() (kind core.DatapathType, reason string)
	Counted(map[string]uint64) // adds what the programs have counted
	Count()                    // has the counters know what the kernel has done until now
	Refused(*core.Service) fastpath.Refusals
	Fills() []fastpath.Fill             // how full maps are
	Collections() counters.Distribution // how long garbage collections took
	CountedAt() time.Time               // when the last one began that is over
	Hold() (release func())             // keeps it from being turned off
}

// Worker is one queue with all that works on it.
type Worker struct {
	Queue  uint16
	Path   *datapath.Worker
	Loop   *verdict.Loop
	Sender *forward.Sender
}

// Active returns the number of flows of a backend in all its services.
func (m *Model) Active(b *core.Backend) int {
	n := int64(0)
	snap := m.Store.Snapshot()
	for _, svc := range snap.Services.For(b) {
		pool := snap.Pools.Of(svc.ID)
		if pool == nil {
			continue
		}
		if member := pool.Named(b.Name); member != nil {
			t := m.Counters.Total(member.Handle)
			n += t.Active + t.Closing
		}
	}
	return int(n)
}

// FlowsOf returns the number of flows of a backend in a service, "" for all.
func (m *Model) FlowsOf(backend, service string) (n int) {
	m.Store.Snapshot().Pools.Each(func(p *core.Pool) {
		if member := p.Named(backend); member != nil && (service == "" || p.Service.Name == service) {
			t := m.Counters.Total(member.Handle)
			n += int(t.Active + t.Closing)
		}
	})
	return n
}

// OfService returns the number of flows of a service.
func (m *Model) OfService(id core.ServiceID) (n int64) {
	pool := m.Store.Snapshot().Pools.Of(id)
	if pool == nil {
		return 0
	}
	for i := range pool.Members {
		n += m.Counters.Total(pool.Members[i].Handle).Active
	}
	return n
}

// do runs fn in a worker and waits for it.
func do(ctx context.Context, w *Worker, fn func()) error {
	done := make(chan struct{})
	if !w.Path.Do(func() { fn(); close(done) }) {
		return errBusy
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
