package check

import (
	"errors"
	"fmt"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/workbench/trial"
)

// story is a run that has something of everything, with so many pools; the same
// inputs every time.
func (k *kit) story(p *host.Policy, parts, picks int) (out []choice, err error) {
	s, err := p.NewScheduler(k.ctx, k.config())
	if err != nil {
		return nil, err
	}
	defer s.Close()
	backends := trial.Backends(20)
	for i := range backends {
		backends[i].Weight = uint32(1 + i%3)
	}
	pools, flows := trial.NewPools(backends), k.flows()
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

func determinism(k *kit) outcome {
	first, err := k.story(k.policy, 4, enough)
	if err != nil {
		return failed(err)
	}
	second, err := k.story(k.policy, 4, enough)
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
func interpreter(k *kit) outcome {
	const parts, picks = 2, 2000 // the interpreter is slow
	rt, err := host.NewInterpreter(k.ctx, host.DefaultLimits())
	if err != nil {
		return failed(err)
	}
	defer rt.Close(k.ctx)
	policy, err := rt.Compile(k.ctx, k.opt.Spec, k.opt.Wasm)
	if err != nil {
		return failed(err)
	}
	compiled, err := k.story(k.policy, parts, picks)
	if err != nil {
		return failed(err)
	}
	interpreted, err := k.story(policy, parts, picks)
	if err != nil {
		return failed(fmt.Errorf("interpreted: %w", err))
	}
	if err := same(compiled, interpreted, "between compiler and interpreter"); err != nil {
		return failed(err)
	}
	if !k.policy.HasTable() {
		return ok("compiler and interpreter agree on %d picks", len(compiled))
	}
	pool := trial.NewPools(trial.Backends(3)).Build()
	first, err := k.policy.BuildTable(k.ctx, k.config(), pool)
	if err != nil {
		return failed(err)
	}
	second, err := policy.BuildTable(k.ctx, k.config(), pool)
	if err != nil {
		return failed(fmt.Errorf("interpreted: %w", err))
	}
	if *first != *second {
		return failed(errors.New("table differs between compiler and interpreter"))
	}
	return ok("compiler and interpreter agree on %d picks and on a table", len(compiled))
}

// order looks whether the pool's order matters where it must not: for policies
// that place a flow by what it is, not by when it comes.
func order(k *kit) outcome {
	pool := trial.NewPools(trial.Backends(20)).Build()
	shuffle := k.flows().Rand().Perm(pool.Eligible)
	permuted := trial.Permuted(pool, shuffle)
	if k.policy.HasTable() {
		return k.orderOfTable(pool, permuted)
	}
	sticky, err := k.sticky(pool)
	if err != nil {
		return failed(err)
	}
	var moved, all int
	out := k.with(func(s *host.Scheduler) outcome {
		before, err := pickAll(s, pool, k.flows(), enough)
		if err != nil {
			return failed(err)
		}
		after, err := pickAll(s, permuted, k.flows(), enough)
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
	case !sticky && !k.opt.Consistent:
		return skipped("the same flow gets another backend each time: not a consistent policy")
	case !sticky:
		return failed(errors.New("the same flow gets another backend the second time, but a consistent policy repeats itself"))
	}
	return k.judge(moved, all, "flows")
}

// judge rates how many flows the order of the pool moved.
func (k *kit) judge(moved, all int, what string) outcome {
	if moved == 0 {
		return ok("consistent: %d %s keep their backend in a permuted pool", all, what)
	}
	text := fmt.Sprintf("%d of %d %s go elsewhere when the pool's order changes: order the backends by id", moved, all, what)
	if k.opt.Consistent {
		return outcome{Failed, text}
	}
	return outcome{Note, text + " if one backend's leaving is not to move the flows of the others"}
}

// sticky says whether the same flows, asked about twice, at other times and
// with other random numbers, get the same backends.
func (k *kit) sticky(pool *core.Pool) (is bool, err error) {
	out := k.with(func(s *host.Scheduler) outcome {
		s.SetPool(pool)
		flows := k.flows()
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
