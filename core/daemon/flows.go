package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/control"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/flow"
)

// walkStep is how many entries a worker shows at once between packets.
const walkStep = 4096

// flowList collects flows that pass a filter.
type flowList struct {
	control.FlowFilter
	rows []control.FlowRow
}

// full says whether the list is long enough. For the top flows all must be
// seen.
func (l *flowList) full() bool { return !l.Top && l.Limit > 0 && len(l.rows) >= l.Limit }

func (l *flowList) add(row control.FlowRow) {
	if l.full() || l.Service != "" && l.Service != row.Service || l.Backend != "" && l.Backend != row.Backend {
		return
	}
	l.rows = append(l.rows, row)
	if l.Top && l.Limit > 0 && len(l.rows) >= 2*l.Limit+walkStep {
		l.cut()
	}
}

// cut keeps the top flows.
func (l *flowList) cut() {
	slices.SortFunc(l.rows, func(a, b control.FlowRow) int { return cmp.Compare(b.Bytes, a.Bytes) })
	if l.Limit > 0 {
		l.rows = l.rows[:min(l.Limit, len(l.rows))]
	}
}

// Flows implements control.Source.
func (s *Server) Flows(ctx context.Context, f control.FlowFilter) ([]control.FlowRow, error) {
	l := &flowList{FlowFilter: f, rows: []control.FlowRow{}}
	if s.kernel != nil {
		err := s.kernel.Each(func(f *fastpath.Flow) bool {
			l.add(s.kernelRow(f))
			return !l.full() && ctx.Err() == nil
		})
		if err != nil {
			return nil, err
		}
	}
	for _, w := range s.workers {
		if err := s.walk(ctx, w, l); err != nil {
			return nil, err
		}
	}
	if l.Top {
		l.cut()
	}
	return l.rows, nil
}

// walk adds a worker's flows.
func (s *Server) walk(ctx context.Context, w *worker, l *flowList) error {
	for at := 0; at >= 0 && !l.full(); {
		done := make(chan int, 1)
		var part []control.FlowRow
		if !w.path.Do(func() {
			done <- w.path.Table().Walk(at, walkStep, func(e *flow.Entry) {
				if !e.Kernel {
					part = append(part, s.workerRow(w, e))
				}
			})
		}) {
			return errors.New("flows: a worker is too busy; try again")
		}
		select {
		case at = <-done:
		case <-ctx.Done():
			return fmt.Errorf("flows: %w", context.Cause(ctx))
		}
		for _, row := range part {
			l.add(row)
		}
	}
	return nil
}

// name is that of a member of a service's pool.
func (s *Server) name(service uint16, h core.Handle) (svc, backend string) {
	if int(service) >= len(s.cfg.Services) {
		return "(gone)", "(gone)"
	}
	pool := s.pools.out.Of(service)
	if i, ok := pool.Find(h); ok {
		return pool.Service.Name, pool.Members[i].Name
	}
	return pool.Service.Name, "(gone)"
}

// kernelRow renders a flow in the kernel's tables.
func (s *Server) kernelRow(f *fastpath.Flow) control.FlowRow {
	row := control.FlowRow{
		Src: f.Key.SrcAddr(), Dst: f.Key.DstAddr(), Proto: core.ProtoName(f.Key.Proto),
		State: f.State(), Kernel: true, Rule: f.Rule.String(), Age: f.Age.Seconds(), Idle: f.Idle.Seconds(),
		Packets: f.Packets, Bytes: f.Bytes,
	}
	row.Service, row.Backend = s.name(f.Service, f.Backend)
	return row
}

// workerRow renders an entry, in its worker's goroutine.
func (s *Server) workerRow(w *worker, e *flow.Entry) control.FlowRow {
	row := control.FlowRow{
		Src: e.Key.SrcAddr(), Dst: e.Key.DstAddr(), Proto: core.ProtoName(e.Key.Proto),
		State: e.State.String(), Rule: fastpath.ByPolicy.String(), Age: w.path.Age(e.Created).Seconds(), Idle: w.path.Age(e.Seen).Seconds(),
		Packets: uint64(e.Packets), Bytes: e.Bytes,
	}
	row.Service, row.Backend = s.name(e.Service, e.Backend)
	return row
}
