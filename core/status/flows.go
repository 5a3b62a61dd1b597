package status

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/flow"
	"github.com/caplance/caplance/core/plain"
)

// walkStep is how many entries a worker shows at once between packets.
const walkStep = 4096

// flowList collects flows that pass a filter.
type flowList struct {
	api.FlowFilter
	rows []api.FlowRow
}

// full reports whether the list is long enough. For the top flows all must be
// seen.
func (l *flowList) full() bool { return !l.Top && l.Limit > 0 && len(l.rows) >= l.Limit }

func (l *flowList) add(row api.FlowRow) {
	if l.full() || !l.Matches(&row) {
		return
	}
	l.rows = append(l.rows, row)
	if l.Top && l.Limit > 0 && len(l.rows) >= 2*l.Limit+walkStep {
		l.cut()
	}
}

// cut keeps the top flows.
func (l *flowList) cut() {
	slices.SortFunc(l.rows, func(a, b api.FlowRow) int { return cmp.Compare(b.Bytes, a.Bytes) })
	if l.Limit > 0 {
		l.rows = l.rows[:min(l.Limit, len(l.rows))]
	}
}

// Flows lists flows of the kernel and of the workers.
func (m *Model) Flows(ctx context.Context, f api.FlowFilter) ([]api.FlowRow, error) {
	defer m.Fast.Hold()()
	if err := m.known(api.BackendFilter{Service: f.Service, Backend: f.Backend}); err != nil {
		return nil, err
	}
	l := &flowList{FlowFilter: f, rows: []api.FlowRow{}}
	if kernel := m.Fast.Kernel(); kernel != nil {
		err := kernel.Each(func(f *fastpath.Flow) bool {
			l.add(m.kernelRow(f))
			return !l.full() && ctx.Err() == nil
		})
		if err != nil {
			return nil, err
		}
	}
	for _, w := range m.Workers() {
		if err := m.walk(ctx, w, l); err != nil {
			return nil, fmt.Errorf("flows: %w", err)
		}
	}
	if l.Top {
		l.cut()
	}
	return l.rows, nil
}

// known refuses a filter that nothing can match.
func (m *Model) known(f api.BackendFilter) error {
	snap := m.Store.Snapshot()
	if f.Service != "" && snap.Services.Named(f.Service) == nil {
		var names []string
		for _, svc := range snap.Services.List {
			names = append(names, svc.Name)
		}
		return fmt.Errorf("service %q is unknown%s (services: %s)", f.Service, plain.DidYouMean(f.Service, names), strings.Join(names, ", "))
	}
	ordered := func(o api.AdminRow) bool { return o.Backend == f.Backend }
	expected := func(s *core.Service) bool { return slices.Contains(s.Expected, f.Backend) }
	if f.Backend != "" && !slices.ContainsFunc(snap.Services.List, expected) && !snap.HasBackend(f.Backend) && !slices.ContainsFunc(m.Orders(), ordered) {
		return fmt.Errorf("backend %q is unknown%s (caplancectl backends lists them)", f.Backend, plain.DidYouMean(f.Backend, snap.BackendNames()))
	}
	return nil
}

var errBusy = errors.New("a worker is too busy; try again")

// walk adds a worker's flows.
func (m *Model) walk(ctx context.Context, w *Worker, l *flowList) error {
	for at := 0; at >= 0 && !l.full(); {
		var part []api.FlowRow
		next := 0
		err := do(ctx, w, func() {
			next = w.Path.Table().Walk(at, walkStep, func(e *flow.Entry) {
				if !e.Kernel() {
					part = append(part, m.workerRow(w, e))
				}
			})
		})
		if err != nil {
			return err
		}
		at = next
		for _, row := range part {
			l.add(row)
		}
	}
	return nil
}

// name returns those of a member of a service's pool.
func (m *Model) name(id core.ServiceID, h core.Handle) (svc, backend string) {
	pool := m.Store.Snapshot().Pools.Of(id)
	if pool == nil {
		return "(gone)", "(gone)"
	}
	if i, ok := pool.Find(h); ok {
		return pool.Service.Name, pool.Members[i].Name
	}
	return pool.Service.Name, "(gone)"
}

// kernelRow renders a flow in the kernel's tables.
func (m *Model) kernelRow(f *fastpath.Flow) api.FlowRow {
	row := api.FlowRow{
		Src: f.Key.SrcAddr(), Dst: f.Key.DstAddr(), Proto: core.ProtoName(f.Key.Proto),
		State: f.State(), Kernel: true, Rule: f.Rule.String(), Age: f.Age.Seconds(), Idle: f.Idle.Seconds(),
		Packets: f.Packets, Bytes: f.Bytes,
	}
	row.Service, row.Backend = m.name(f.Service, f.Backend)
	return row
}

// workerRow renders an entry, in its worker's goroutine.
func (m *Model) workerRow(w *Worker, e *flow.Entry) api.FlowRow {
	row := api.FlowRow{
		Src: e.Key.SrcAddr(), Dst: e.Key.DstAddr(), Proto: core.ProtoName(e.Key.Proto),
		State: e.State.String(), Rule: fastpath.ByPolicy.String(), Age: w.Path.Age(e.Created).Seconds(), Idle: w.Path.Age(e.Seen).Seconds(),
		Packets: uint64(e.Packets), Bytes: e.Bytes,
	}
	if e.Ended {
		row.State = "ended"
	}
	row.Service, row.Backend = m.name(e.Service, e.Backend)
	return row
}
