package host

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/plain"
	"github.com/caplance/caplance/plugins/abi"
)

// Ended tells the policy that a flow it may have picked the backend of has
// ended. It is on the packet path: 0 allocations, and nothing at all for
// policies that do not export caplance_flow_end.
func (s *Scheduler) Ended(e *core.FlowEnd) {
	if s.shadow != nil {
		s.shadow.Ended(e)
	}
	if r := s.recorder.Load(); r != nil {
		r.ended(s.pool, e)
	}
	in := s.in
	if in == nil || in.flowEndFn == nil || in.pool == nil {
		return
	}
	index := -1 // the backend ended, too
	if i, ok := s.pool.Find(e.Backend); ok {
		index = i
	}
	if in.end != nil {
		abi.PutEnd(in.end, e)
	}
	in.stack[0], in.stack[1] = uint64(uint32(index)), uint64(in.buffers[abi.SlotEnd].ptr)
	in.tank.fill(in.tank.pick)
	if in.watch.due() {
		if err := in.timed(in.flowEndFn, abi.FlowEnd); err != nil {
			s.fail(err)
			return
		}
	} else if err := in.flowEndFn.CallWithStack(context.Background(), in.stack[:]); err != nil {
		s.fail(in.tank.explain(abi.FlowEnd, in.tank.pick, err))
		return
	}
	s.regrown(in)
}

// Tick lets the policy do its housekeeping, and reads its metrics. Call it about
// once a second, between batches, with the monotonic clock in ns.
func (s *Scheduler) Tick(now uint64) {
	if s.shadow != nil {
		s.shadow.Tick(now)
	}
	in := s.in
	if in == nil {
		in = s.adopt()
	}
	if in == nil || in.pool == nil {
		return
	}
	if in.tickFn != nil {
		if _, err := in.call(s.ctx, in.tickFn, now); err != nil {
			s.fail(err)
			return
		}
		s.regrown(in)
	}
	for i := range min(len(in.metrics)/8, abi.MaxMetrics) {
		s.stats.metrics[i].Store(le.Uint64(in.metrics[8*i:]))
	}
}

// regrown takes the views anew after a call in which the memory grew.
func (s *Scheduler) regrown(in *instance) {
	if in.mem.Size() == in.size {
		return
	}
	if err := in.mapViews(); err != nil {
		s.fail(err)
	}
}

// Metric is one value that a policy exports.
type Metric struct {
	Name  string
	Value uint64
}

// metrics are a policy's, as last read by Tick.
type metrics [abi.MaxMetrics]atomic.Uint64

// askMetrics asks for the METRICS buffer and the names in NAMES.
func (in *instance) askMetrics(ctx context.Context) error {
	if err := in.ask(ctx, abi.SlotMetrics, 8*abi.MaxMetrics); err != nil {
		return err
	}
	return in.ask(ctx, abi.SlotNames, abi.NamesSize)
}

// metricNames returns the names in NAMES, each ended by a zero byte; they are read
// when the instance has started. A policy with values but no names gets
// numbers.
func (in *instance) metricNames() []string {
	if in.metrics == nil {
		return nil
	}
	var names []string
	for b := range bytes.SplitSeq(in.names, []byte{0}) {
		if len(b) == 0 || len(names) == abi.MaxMetrics {
			break
		}
		names = append(names, plain.Name(string(b)))
	}
	if in.names == nil {
		for i := range abi.MaxMetrics {
			names = append(names, fmt.Sprint(i))
		}
	}
	return names
}
