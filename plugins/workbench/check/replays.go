package check

import (
	"errors"
	"fmt"
	"slices"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/workbench/trial"
)

// script runs something of everything, with so many pools, and returns the picks; the same
// inputs every time.
func (h *harness) script(p *host.Policy, parts, picks int) (out []choice, err error) {
	s, err := p.NewScheduler(h.ctx, h.config())
	if err != nil {
		return nil, err
	}
	defer s.Close()
	backends := trial.Backends(20)
	for i := range backends {
		backends[i].Weight = uint32(1 + i%3)
	}
	pools, flows := trial.NewPools(backends), h.flows()
	for part := range parts {
		pools.Backends[part].State = core.Draining
		pool := pools.Build()
		list, err := pickAll(s, pool, flows, picks/parts)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
		s.Ended(&core.FlowEnd{Backend: pool.Members[0].Handle, Packets: 3, Bytes: 200})
		s.Refresh(nil, nil, nil)
		s.Tick(uint64(part) * 1e9)
		if err := s.Broken(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func determinism(h *harness) outcome {
	first, err := h.script(h.policy, 4, enough)
	if err != nil {
		return failed(err)
	}
	second, err := h.script(h.policy, 4, enough)
	if err != nil {
		return failed(err)
	}
	if err := same(first, second, "in a second instance with the same inputs"); err != nil {
		return failed(err)
	}
	return ok("two instances agree on %d picks", len(first))
}

// interpreter runs the module in an engine that shares no code with the
// compiler that the balancer uses.
func interpreter(h *harness) outcome {
	const parts, picks = 2, 2000 // the interpreter is slow
	rt, err := host.NewInterpreter(h.ctx, host.DefaultLimits())
	if err != nil {
		return failed(err)
	}
	defer rt.Close(h.ctx)
	policy, err := rt.Compile(h.ctx, h.opt.Spec, h.opt.Wasm)
	if err != nil {
		return failed(err)
	}
	compiled, err := h.script(h.policy, parts, picks)
	if err != nil {
		return failed(err)
	}
	interpreted, err := h.script(policy, parts, picks)
	if err != nil {
		return failed(fmt.Errorf("interpreted: %w", err))
	}
	if err := same(compiled, interpreted, "between compiler and interpreter"); err != nil {
		return failed(err)
	}
	if !h.policy.HasTable() {
		return ok("compiler and interpreter agree on %d picks", len(compiled))
	}
	pool := trial.NewPools(trial.Backends(3)).Build()
	first, err := h.policy.BuildTable(h.ctx, h.config(), pool)
	if err != nil {
		return failed(err)
	}
	second, err := policy.BuildTable(h.ctx, h.config(), pool)
	if err != nil {
		return failed(fmt.Errorf("interpreted: %w", err))
	}
	if !slices.Equal(first.Slots(), second.Slots()) {
		return failed(errors.New("table differs between compiler and interpreter"))
	}
	return ok("compiler and interpreter agree on %d picks and on a table", len(compiled))
}

// order looks whether the pool's order matters where it must not: for policies
// that place a flow by what it is, not by when it comes.
func order(h *harness) outcome {
	pool := trial.NewPools(trial.Backends(20)).Build()
	shuffle := h.flows().Rand().Perm(pool.Eligible)
	permuted := trial.Permuted(pool, shuffle)
	if h.policy.HasTable() {
		return h.orderOfTable(pool, permuted)
	}
	sticky, err := h.sticky(pool)
	if err != nil {
		return failed(err)
	}
	var moved, all int
	out := h.with(func(s *host.Scheduler) outcome {
		before, err := pickAll(s, pool, h.flows(), enough)
		if err != nil {
			return failed(err)
		}
		after, err := pickAll(s, permuted, h.flows(), enough)
		if err != nil {
			return failed(err)
		}
		for i := range before {
			if before[i].by == core.ByPolicy && after[i].by == core.ByPolicy {
				all++
				if before[i].id != after[i].id {
					moved++
				}
			}
		}
		return ok("")
	})
	switch {
	case out.status == Failed:
		return out
	case !sticky && !h.opt.Consistent:
		return skipped("the same flow gets another backend each time: not a consistent policy")
	case !sticky:
		return failed(errors.New("the same flow gets another backend the second time, but a consistent policy repeats itself"))
	}
	return h.judge(moved, all, "flows")
}

// judge rates how many flows the order of the pool moved.
func (h *harness) judge(moved, all int, what string) outcome {
	if moved == 0 {
		return ok("consistent: %d %s keep their backend in a permuted pool", all, what)
	}
	text := fmt.Sprintf("%d of %d %s go elsewhere when the pool's order changes: order the backends by id", moved, all, what)
	if h.opt.Consistent {
		return outcome{Failed, text}
	}
	return outcome{Note, text + " if one backend's leaving is not to move the flows of the others"}
}

// sticky reports whether the same flows, asked about twice, at other times and
// with other random numbers, get the same backends.
func (h *harness) sticky(pool *core.Pool) (is bool, err error) {
	out := h.with(func(s *host.Scheduler) outcome {
		s.SetPool(pool)
		flows := h.flows()
		var list []core.NewFlow
		for range 997 { // a prime, or it would be whole rounds of round-robin
			list = append(list, flows.Next())
		}
		var before []choice
		for round := range 2 {
			for i := range list {
				f := list[i]
				f.Rand, f.Now = flows.Rand().Uint64(), f.Now+uint64(round)*1e9
				c, err := pick(s, pool, &f)
				switch {
				case err != nil:
					return failed(err)
				case round == 0:
					before = append(before, c)
				case before[i] != c:
					return note("moves")
				}
			}
		}
		return ok("stays")
	})
	if out.status == Failed {
		return false, errors.New(out.detail)
	}
	return out.status == OK, nil
}
