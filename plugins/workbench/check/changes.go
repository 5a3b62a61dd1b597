package check

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/abi"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/workbench/trial"
)

func ipv6(h *harness) outcome {
	return h.with(func(s *host.Scheduler) outcome {
		pools := trial.NewPools(trial.Backends(10))
		for i := range pools.Backends {
			pools.Backends[i].Addr = netip.MustParseAddr("2001:db8::b").Next()
		}
		flows := h.flows()
		flows.Family = 6
		list, err := pickAll(s, pools.Build(), flows, enough)
		if err != nil {
			return failed(err)
		}
		return h.summary(s, list)
	})
}

// churn changes the pool all the time: indices that were good before are not
// any more.
func churn(h *harness) outcome {
	const changes = 30
	return h.with(func(s *host.Scheduler) outcome {
		flows := h.flows()
		rng := flows.Rand()
		all := trial.Backends(1000)
		pools := trial.NewPools(nil)
		for range changes {
			pools.Backends = pools.Backends[:0]
			for _, b := range all[:1+rng.IntN(1+rng.IntN(len(all)))] {
				if rng.IntN(4) > 0 {
					b.Weight, b.State = uint32(rng.IntN(5)), core.BackendState(rng.IntN(5)*rng.IntN(2))
					b.Priority, b.Zone = uint32(rng.IntN(3)), uint16(rng.IntN(3))
					pools.Backends = append(pools.Backends, b)
				}
			}
			if _, err := pickAll(s, pools.Build(), flows, 100); err != nil {
				return failed(err)
			}
		}
		return ok("%d pools of 0 to 1000 backends, one after the other", changes)
	})
}

// attempts has backends that are full.
func attempts(h *harness) outcome {
	if h.policy.HasTable() {
		return skipped("its table places the flows: full backends are the balancer's business")
	}
	return h.with(func(s *host.Scheduler) outcome {
		const n, room = 10, 100
		pools := trial.NewPools(trial.Backends(n))
		for i := range pools.Backends {
			pools.Backends[i].MaxFlows = room
		}
		list, err := pickAll(s, pools.Build(), h.flows(), n*room)
		if err != nil {
			return failed(err)
		}
		if gave := len(list) - asked(list); gave > 0 {
			return note("named full backends four times in a row for %d of %d flows: the balancer chose for them", gave, len(list))
		}
		return ok("finds room while there is some")
	})
}

func events(h *harness) outcome {
	ends, ticks := h.policy.Exports(abi.FlowEnd), h.policy.Exports(abi.Tick)
	if !ends && !ticks {
		return skipped("exports neither %s nor %s", abi.FlowEnd, abi.Tick)
	}
	return h.with(func(s *host.Scheduler) outcome {
		pools := trial.NewPools(trial.Backends(10))
		pool, flows := pools.Build(), h.flows()
		s.SetPool(pool)
		gone := pool.Members[9].Handle
		pools.Backends = pools.Backends[:9]
		pool = pools.Build()
		s.SetPool(pool)
		end := core.FlowEnd{Packets: 1 << 40, Bytes: 1 << 60, Duration: uint64(24 * time.Hour)}
		for i := range enough {
			f := flows.Next()
			if _, err := pick(s, pool, &f); err != nil {
				return failed(fmt.Errorf("pick %d among ends of flows: %w", i+1, err))
			}
			// More ends than picks, and some of a backend that left.
			for _, end.Backend = range []core.Handle{pool.Members[i%9].Handle, pool.Members[0].Handle, gone} {
				s.Ended(&end)
			}
			if i%1000 == 0 {
				s.Tick(f.Now)
			}
			if err := s.Broken(); err != nil {
				return failed(fmt.Errorf("end of a flow after pick %d: %w", i+1, err))
			}
		}
		return ok("more ends than picks, ends at backends that left, ticks")
	})
}

// swap does what a balancer does before it lets a policy take over.
func swap(h *harness) outcome {
	for _, n := range []int{1, 10, 1000} {
		if err := h.policy.Smoke(h.ctx, h.config(), trial.NewPools(trial.Backends(n)).Build()); err != nil {
			return failed(fmt.Errorf("pool of %d backends: %w", n, err))
		}
	}
	return ok("%d picks each at 1, 10 and 1000 backends", host.SmokePicks)
}
