package check

import (
	"fmt"
	"slices"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/abi"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/workbench/trial"
)

// fuelUse finds the most that a call takes. Fuel is close to instructions, so
// unlike time it is the same everywhere.
func fuelUse(h *harness) outcome {
	limits := h.policy.Limits()
	return h.with(func(s *host.Scheduler) outcome {
		var worstPick, worstPool int64
		for _, n := range []int{1, 10, 1000} {
			pool, flows := trial.NewPools(trial.Backends(n)).Build(), h.flows()
			s.SetPool(pool)
			worstPool = max(worstPool, s.CallFuel())
			for i := range enough {
				if i%500 == 0 { // policies with an index over the counters build it anew
					s.Refresh(nil, nil, nil)
				}
				f := flows.Next()
				if _, err := pick(s, pool, &f); err != nil {
					return failed(fmt.Errorf("pool of %d backends, pick %d: %w", n, i+1, err))
				}
				worstPick = max(worstPick, s.PickFuel())
			}
		}
		text := fmt.Sprintf("at most %d units for a pick (%.1f%% of pick_fuel), %d for a pool of 1000 (%.1f%% of call_fuel)",
			worstPick, percent(worstPick, limits.PickFuel), worstPool, percent(worstPool, limits.CallFuel))
		if 2*worstPick > limits.PickFuel || 2*worstPool > limits.CallFuel {
			return outcome{Note, text + ": a larger pool may exhaust it"}
		}
		return outcome{OK, text}
	})
}

func percent(part, whole int64) float64 { return 100 * float64(part) / float64(whole) }

// leak watches the memory over very many picks. Runtimes with a garbage
// collector grow at first; what grows in the second half never stops.
func leak(h *harness) outcome {
	return h.with(func(s *host.Scheduler) outcome {
		pools := trial.NewPools(trial.Backends(10))
		pool, flows := pools.Build(), h.flows()
		s.SetPool(pool)
		var half uint32
		started := s.MemorySize()
		for i := range h.opt.Picks {
			if i%10_000 == 0 {
				h.progress("leak", i, h.opt.Picks)
				if h.ctx.Err() != nil {
					return skipped("stopped")
				}
				pools.Backends[0].Weight = uint32(1 + i/10_000%2)
				pool = pools.Build()
				s.SetPool(pool)
				s.Tick(flows.Next().Now)
			}
			if i == h.opt.Picks/2 {
				half = s.MemorySize()
			}
			f := flows.Next()
			index, _ := s.Pick(&f)
			if index >= 0 && i%2 == 1 {
				s.Ended(&core.FlowEnd{Backend: pool.Members[index].Handle, Packets: 10, Bytes: 5000, Duration: 1e9})
			}
			if err := s.Broken(); err != nil {
				return failed(fmt.Errorf("pick %d, with a memory of %d KiB at the start: %w", i+1, started>>10, err))
			}
		}
		h.progress("leak", h.opt.Picks, h.opt.Picks)
		if end := s.MemorySize(); end > half {
			return failed(fmt.Errorf("memory grew from %d KiB at the start to %d KiB after %d picks and to %d KiB after %d: free what a call allocates, or allocate nothing",
				started>>10, half>>10, h.opt.Picks/2, end>>10, h.opt.Picks))
		}
		return ok("%d picks, memory %d KiB, %d KiB at the start", h.opt.Picks, s.MemorySize()>>10, started>>10)
	})
}

func table(h *harness) outcome {
	if !h.policy.HasTable() {
		return skipped("does not export %s", abi.Table)
	}
	for _, n := range []int{1, 2, 10, 1000} {
		pools := trial.NewPools(trial.Backends(n))
		for _, heavy := range []uint32{1, 10} {
			pools.Backends[0].Weight = heavy
			pool := pools.Build()
			first, err := h.policy.BuildTable(h.ctx, h.config(), pool)
			if err != nil {
				return failed(fmt.Errorf("pool of %d backends: %w", n, err))
			}
			second, err := h.policy.BuildTable(h.ctx, h.config(), pool)
			if err != nil {
				return failed(fmt.Errorf("pool of %d backends, second time: %w", n, err))
			}
			if !slices.Equal(first.Slots(), second.Slots()) {
				return failed(fmt.Errorf("pool of %d backends: two tables for the same pool differ: balancers would disagree", n))
			}
		}
	}
	return ok("tables of %d slots for 1 to 1000 backends: every slot valid, every backend there, the same twice", core.LookupSize)
}

func (h *harness) orderOfTable(pool, permuted *core.Pool) outcome {
	before, err := h.policy.BuildTable(h.ctx, h.config(), pool)
	if err != nil {
		return failed(err)
	}
	after, err := h.policy.BuildTable(h.ctx, h.config(), permuted)
	if err != nil {
		return failed(err)
	}
	moved := 0
	for i, at := range before.Slots() {
		if to := after.Slots()[i]; (at == core.NoBackend) != (to == core.NoBackend) || at != core.NoBackend && pool.Members[at].ID != permuted.Members[to].ID {
			moved++
		}
	}
	return h.judge(moved, core.LookupSize, "slots")
}
