package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/control"
	"github.com/caplance/caplance/core/flow"
)

// Explain implements control.Source.
func (s *Server) Explain(ctx context.Context, id control.FlowID) (control.Explanation, error) {
	e := control.Explanation{FlowID: id}
	k := core.FlowKey{
		Src: id.Src.Addr().As16(), Dst: id.Dst.Addr().As16(), SrcPort: id.Src.Port(), DstPort: id.Dst.Port(), Proto: core.ProtoTCP,
	}
	if id.Proto == core.ProtoName(core.ProtoUDP) {
		k.Proto = core.ProtoUDP
	}
	svc := s.service(&k)
	if svc == nil {
		return e, nil
	}
	e.Service = svc.Name
	row, err := s.lookFor(ctx, svc, &k)
	if err != nil {
		return e, err
	}
	pool := s.pools.out.Of(svc.Index)
	if e.Flow = row; row != nil {
		e.Backend = row.Backend
	} else {
		e.Fresh, e.Backend = s.foretell(pool, &k)
	}
	for _, m := range pool.Members {
		if m.Name == e.Backend {
			e.Way = s.way(&m)
		}
	}
	return e, nil
}

func (s *Server) service(k *core.FlowKey) *core.Service {
	for _, svc := range s.cfg.Services {
		if svc.VIP.As16() == k.Dst && svc.Matches(k.Proto, k.DstPort) {
			return svc
		}
	}
	return nil
}

// lookFor finds a flow in the kernel's tables, or in a worker's; nil when it is
// in neither.
func (s *Server) lookFor(ctx context.Context, svc *core.Service, k *core.FlowKey) (row *control.FlowRow, err error) {
	if s.kernel != nil {
		if f, ok := s.kernel.Find(k); ok {
			r := s.kernelRow(&f)
			return &r, nil
		}
	}
	w := s.workers[s.flowQueue(k)]
	done := make(chan *control.FlowRow, 1)
	if !w.path.Do(func() {
		var found *control.FlowRow
		if e := w.path.Table().Find(k, k.Hash(svc.Seed)); e != nil && !e.Kernel {
			found = s.found(w, e)
		}
		done <- found
	}) {
		return nil, errors.New("explain: a worker is too busy; try again")
	}
	select {
	case row = <-done:
		return row, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("explain: %w", context.Cause(ctx))
	}
}

func (s *Server) found(w *worker, e *flow.Entry) *control.FlowRow {
	row := s.workerRow(w, e)
	return &row
}

// foretell says what would decide on a new flow, and its backend where that is
// certain.
func (s *Server) foretell(pool *core.Pool, k *core.FlowKey) (by, backend string) {
	if pool.Eligible == 0 {
		return "dropped: no backend is eligible", ""
	}
	hash := k.Hash(pool.Service.Seed)
	st := s.policies.services[pool.Service.Index].stats()
	table, why := pool.Lookup, "the lookup table: policy "+st.Policy+" is quarantined"
	switch {
	case pool.Table != nil:
		table, why = pool.Table, "the table of policy "+st.Policy
	case !st.Quarantined:
		return "policy " + st.Policy + " is asked", ""
	}
	if i := table.At(hash); i != core.NoBackend {
		return why, pool.Members[i].Name
	}
	return why + ": nobody", ""
}

// way is how packets get to a member.
func (s *Server) way(m *core.Member) string {
	text := fmt.Sprintf("%s to %v, packets up to %d bytes", m.Mode, m.Addr, m.MTU)
	switch {
	case m.State == core.Paused:
		text += ", held back: the backend is paused"
	case s.kernel == nil:
		text += ", by userspace: rung " + s.rung
	case !m.Kernel():
		text += ", by userspace: its agent decapsulates there"
	default:
		text += ", by the kernel: rung " + s.rung
	}
	return text
}

// Handover implements control.Source.
func (s *Server) Handover() (leave func(), err error) {
	switch {
	case s.kernel == nil:
		return nil, fmt.Errorf("handover: nothing forwards without the balancer on rung %s; stop it instead", s.rung)
	case !s.pools.attached.Load():
		return nil, errors.New("handover: the last one is not finished: backends are still missing; try again in some seconds")
	}
	s.log.Info("flows are left to the kernel until the next start")
	return func() {
		s.leaving.Store(true)
		if err := s.kernel.Retire(); err != nil { // before nobody listens to what comes up
			s.log.Warn("new flows wait until the kernel finds the balancer silent", "err", err)
		}
		s.stop()
	}, nil
}
