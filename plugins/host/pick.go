package host

import (
	"context"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/abi"
)

// The hot path: once per new flow. Allowed here: 0 allocations, 0 locks, one
// call into the guest (19–23 ns), one atomic addition for the statistics, and of
// 128 calls one that is timed (60 ns).
// TestPickDoesNotAllocate and BenchmarkPick hold it to that.

// maxAttempts is how often a policy is asked anew about one flow when the
// backend that it named takes no more flows.
const maxAttempts = 3

// Pick chooses a backend for a new flow. index is a position in the Members of
// the pool given last; it is -1 with ByReject and ByNobody. Pick never fails:
// where the policy does, the pool's lookup table answers, with ByFallback.
func (s *Scheduler) Pick(f *core.NewFlow) (index int, by core.Decision) {
	index, by = s.pick(f)
	if index >= 0 && s.full(index) {
		index, by = s.again(f)
	}
	if index >= 0 {
		c := &s.counts[index]
		c[countActive].value++
		c[countPackets].value++
		if s.in != nil {
			s.in.putCount(index, c)
		}
	}
	s.stats.picks[by].Add(1)
	if s.shadow != nil {
		s.ask(f, index)
	}
	if r := s.recorder.Load(); r != nil {
		r.picked(s.pool, f, index, by)
	}
	return index, by
}

// full reports whether a member takes no more flows.
func (s *Scheduler) full(index int) bool {
	most := s.pool.Members[index].MaxFlows
	return most != 0 && s.counts[index][countActive].value >= uint64(most)
}

// again asks about a flow whose backend was full, with a growing attempt; in
// the end any backend that is not full will do.
func (s *Scheduler) again(f *core.NewFlow) (index int, by core.Decision) {
	for f.Attempt < maxAttempts && s.pool.Table == nil {
		f.Attempt++
		if index, by = s.pick(f); index < 0 || !s.full(index) {
			return index, by
		}
	}
	start := int(f.Hash % uint64(s.pool.Eligible))
	for i := range s.pool.Eligible {
		if index = (start + i) % s.pool.Eligible; !s.full(index) {
			return index, core.ByFallback
		}
	}
	return -1, core.ByNobody
}

func (s *Scheduler) pick(f *core.NewFlow) (index int, by core.Decision) {
	if s.pool == nil || s.pool.Eligible == 0 {
		return -1, core.ByNobody
	}
	if s.pool.Table != nil {
		if i, ok := s.pool.ByTable(f.Hash); ok {
			return i, core.ByTable
		}
		return s.fallback(f)
	}
	in := s.in
	if in == nil {
		if in = s.adopt(); in == nil {
			return s.fallback(f)
		}
	}
	if in.refused {
		return s.fallback(f)
	}
	if in.flow != nil {
		abi.PutFlow(in.flow, f)
	}
	in.stack[0], in.stack[1] = f.Hash, uint64(in.buffers[abi.SlotFlow].ptr)
	in.tank.fill(in.tank.pick)
	// Not s.ctx: the engine asks a context for a value in every call, which
	// costs 8 ns where there is a chain of them.
	if in.watch.due() {
		if err := in.timed(in.pickFn, abi.Pick); err != nil {
			s.fail(err)
			return s.fallback(f)
		}
	} else if err := in.pickFn.CallWithStack(context.Background(), in.stack[:]); err != nil {
		s.fail(in.tank.explain(abi.Pick, in.tank.pick, err))
		return s.fallback(f)
	}
	answer := int32(in.stack[0])
	if in.mem.Size() != in.size { // it grew, so the buffers may be elsewhere
		if err := in.mapViews(); err != nil {
			s.fail(err)
			return s.fallback(f)
		}
	}
	if answer >= 0 && int(answer) < s.pool.Eligible {
		return int(answer), core.ByPolicy
	}
	return s.noIndex(f, answer)
}

// noIndex carries out a pick that names no eligible backend.
func (s *Scheduler) noIndex(f *core.NewFlow, answer int32) (index int, by core.Decision) {
	switch answer {
	case abi.Reject:
		return -1, core.ByReject
	case abi.NoChoice, abi.UseTable:
		s.stats.noChoice.Add(1)
	default:
		s.fail(&Failure{CauseAnswer, badIndexError{answer, s.pool.Eligible}})
	}
	return s.fallback(f)
}

// fallback returns the pick without a policy.
func (s *Scheduler) fallback(f *core.NewFlow) (index int, by core.Decision) {
	i := s.pool.Fallback(f.Hash)
	if i < 0 {
		return -1, core.ByNobody
	}
	return i, core.ByFallback
}
