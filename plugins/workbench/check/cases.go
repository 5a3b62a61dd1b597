package check

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/abi"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/workbench/trial"
)

// cases is the suite, from the first that a broken policy fails to the slowest.
var cases = []testCase{
	{"start", "M6", start},
	{"buffers", "M7", buffers},
	{"unknown-slot", "M8", unknownSlot},
	{"pool-0", "M10", poolOf(0)},
	{"pool-1", "M10", poolOf(1)},
	{"pool-2", "M10", poolOf(2)},
	{"pool-1000", "M10", poolOf(1000)},
	{"draining", "M10", draining},
	{"weights", "M10", weights},
	{"ipv6", "M10", ipv6},
	{"churn", "section 3, caplance_backends", churn},
	{"attempts", "section 3, caplance_pick", attempts},
	{"events", "section 3, caplance_flow_end", events},
	{"config", "section 3, step 3", config},
	{"fuel", "M11", fuelUse},
	{"determinism", "M9", determinism},
	{"interpreter", "section 3, guarantees", interpreter},
	{"order", "consistency", order},
	{"table", "M12, M13", table},
	{"swap", "trial before a swap", swap},
	{vectorsCase, "the author's own", vectors},
	{"leak", "M2", leak},
}

// enough picks of a case to meet what happens once in a thousand.
const enough = 10_000

func start(h *harness) outcome {
	return h.with(func(s *host.Scheduler) outcome {
		s.SetPool(trial.NewPools(trial.Backends(2)).Build())
		if err := s.Broken(); err != nil {
			return failed(err)
		}
		return ok("starts and takes a pool of two backends; every buffer is aligned and inside the memory")
	})
}

func buffers(h *harness) outcome {
	return h.with(func(s *host.Scheduler) outcome {
		s.SetPool(trial.NewPools(trial.Backends(100)).Build())
		if err := s.Broken(); err != nil {
			return failed(err)
		}
		list := s.Buffers()
		slices.SortFunc(list, func(a, b host.Buffer) int { return cmp.Compare(a.Ptr, b.Ptr) })
		for i := 1; i < len(list); i++ {
			if a, b := list[i-1], list[i]; uint64(a.Ptr)+uint64(a.Size) > uint64(b.Ptr) {
				return failed(fmt.Errorf("buffers of the slots %v (%d bytes at %d) and %v (at %d) overlap: give each its own",
					a.Slot, a.Size, a.Ptr, b.Slot, b.Ptr))
			}
		}
		return ok("%d buffers, none overlaps another", len(list))
	})
}

func unknownSlot(h *harness) outcome {
	return h.with(func(s *host.Scheduler) outcome {
		for _, slot := range []uint32{0, uint32(abi.MaxSlot) + 1, 99, math.MaxUint32} {
			ptr, err := s.AskBuffer(slot, 64)
			if err != nil {
				return failed(fmt.Errorf("slot %d: %w", slot, err))
			}
			if ptr != 0 {
				return failed(fmt.Errorf("slot %d does not exist, but %s answers %d: return 0 for slots that you do not know", slot, abi.Buffer, ptr))
			}
		}
		for slot := abi.SlotConfig; slot <= abi.MaxSlot; slot++ {
			if _, err := s.AskBuffer(uint32(slot), 0); err != nil {
				return failed(fmt.Errorf("slot %v of 0 bytes: %w", slot, err))
			}
		}
		return ok("refuses slots that it does not know")
	})
}

func poolOf(n int) func(h *harness) outcome {
	return func(h *harness) outcome {
		return h.with(func(s *host.Scheduler) outcome {
			pools := trial.NewPools(trial.Backends(n))
			list, err := pickAll(s, pools.Build(), h.flows(), enough)
			if err != nil {
				return failed(err)
			}
			if n > 0 {
				return h.summary(s, list)
			}
			pools.Backends = trial.Backends(1)
			if _, err := pickAll(s, pools.Build(), h.flows(), 10); err != nil {
				return failed(fmt.Errorf("first backend after none: %w", err))
			}
			return ok("no backend, then one")
		})
	}
}

func draining(h *harness) outcome {
	return h.with(func(s *host.Scheduler) outcome {
		pools := trial.NewPools(trial.Backends(5))
		for _, eligible := range []int{5, 0, 3, 0, 1} {
			for i := range pools.Backends {
				pools.Backends[i].State = core.Active
				if i >= eligible {
					pools.Backends[i].State = core.Draining
				}
			}
			if _, err := pickAll(s, pools.Build(), h.flows(), 1000); err != nil {
				return failed(err)
			}
		}
		return ok("all backends drain and come back")
	})
}

func weights(h *harness) outcome {
	return h.with(func(s *host.Scheduler) outcome {
		pools := trial.NewPools(trial.Backends(5))
		for _, w := range [][]uint32{{0, 1, 1, 1, 1}, {1, math.MaxUint32, 2, 0, 7}, {math.MaxUint32, math.MaxUint32, math.MaxUint32, 1, 1}, {0, 0, 0, 0, 0}, {1000, 1, 1, 1, 1}} {
			for i := range pools.Backends {
				pools.Backends[i].Weight = w[i]
			}
			if _, err := pickAll(s, pools.Build(), h.flows(), enough); err != nil {
				return failed(fmt.Errorf("weights %s: %w", strings.Trim(fmt.Sprint(w), "[]"), err))
			}
		}
		return ok("weights from 0 to %d", uint32(math.MaxUint32))
	})
}

// config only looks for failures: what a policy makes of nonsense is its own
// business.
func config(h *harness) outcome {
	if !h.policy.Exports(abi.Config) {
		return skipped("takes no configuration")
	}
	long := `{"x":"` + strings.Repeat("é", 30_000) + `"}`
	for _, text := range []string{"{}", `{"unknown":1}`, `{"a":{"b":[1,2,{"c":null}]}}`, `{"n":1e308}`, long} {
		cfg := h.config()
		cfg.ConfigJSON = []byte(text)
		s, err := h.policy.NewScheduler(h.ctx, cfg)
		if f, is := errors.AsType[*host.Failure](err); is {
			return failed(fmt.Errorf("policy_config %.40s: %w (reject it with a result that is not 0)", text, f))
		}
		if err == nil {
			s.Close()
		}
	}
	return ok("takes or rejects any configuration")
}
