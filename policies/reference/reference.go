// Package reference implements every bundled policy once more, in Go and as
// plainly as can be: linear scans, no trees, no SIMD. The guests are compared
// with it, pick by pick, and tools compare speed and shares.
//
//	s := reference.For("hash")(0, 1)
//	s.SetPool(pool)
//	i := s.Pick(&flow)
package reference

import (
	"github.com/caplance/caplance/core"
)

// Scheduler stands for a worker's host.Scheduler with the policy as its guest: it
// counts flows and asks again when a backend is full, as the host does. It is
// not safe for concurrent use.
//
// One thing it leaves to the host: counters of backends that join start at
// zero here, and not at the level of the others.
type Scheduler interface {
	SetPool(p *core.Pool)
	// Pick is an index in the pool's Members, -1 when nobody takes the flow.
	// It counts attempts in f.
	Pick(f *core.NewFlow) int
	// Refresh sets the counters, by index in Members; a nil slice leaves its
	// counter alone.
	Refresh(active []uint32, packets, bytes []uint64)
	Ended(e *core.FlowEnd)
}

// policy is what differs. Its methods see the state of the worker that it
// embeds.
type policy interface {
	// setPool is told of a pool after the worker has taken it.
	setPool()
	// pick is an index, or -1 for the lookup table.
	pick(f *core.NewFlow) int
	// refreshed is told that the counters were overwritten.
	refreshed()
	ended(e *core.FlowEnd)
}

// New starts a policy for one of several workers, 0 ≤ worker <
// workers.
type New func(worker, workers int) Scheduler

var all = map[string]func(w *worker) policy{
	"hash":                       func(w *worker) policy { return &hash{worker: w, key: tuple} },
	"source-hash":                func(w *worker) policy { return &hash{worker: w, key: client} },
	"maglev":                     func(w *worker) policy { return &maglev{worker: w} },
	"sticky-failover":            func(w *worker) policy { return &failover{worker: w} },
	"round-robin":                func(w *worker) policy { return &roundRobin{worker: w} },
	"weighted-round-robin":       func(w *worker) policy { return &smooth{worker: w} },
	"random":                     func(w *worker) policy { return &random{worker: w} },
	"power-of-two-choices":       func(w *worker) policy { return &twoChoices{random{worker: w}} },
	"least-load":                 func(w *worker) policy { return &leastLoad{random{worker: w}} },
	"least-connections":          func(w *worker) policy { return &least{worker: w, load: w.activePerRamp} },
	"weighted-least-connections": func(w *worker) policy { return &least{worker: w, load: w.activePerShare} },
	"least-packets":              func(w *worker) policy { return &least{worker: w, load: w.packetsPerShare} },
	"least-bytes":                func(w *worker) policy { return newLeastBytes(w) },
}

// For returns how a bundled policy starts, nil for other names.
func For(name string) New {
	start := all[name]
	if start == nil {
		return nil
	}
	return func(index, count int) Scheduler {
		w := &worker{index: index, workers: count}
		w.policy = start(w)
		return w
	}
}

// worker is what the host does around a policy.
type worker struct {
	policy
	index, workers int

	pool    *core.Pool
	members []core.Member // the eligible ones
	active  []uint32
	packets []uint64
	bytes   []uint64
}

func (w *worker) SetPool(p *core.Pool) {
	was, next := w.pool, *w
	next.active, next.packets, next.bytes = make([]uint32, len(p.Members)), make([]uint64, len(p.Members)), make([]uint64, len(p.Members))
	for i := range p.Members {
		if was == nil {
			break
		}
		if j, ok := was.Find(p.Members[i].Handle); ok {
			next.active[i], next.packets[i], next.bytes[i] = w.active[j], w.packets[j], w.bytes[j]
		}
	}
	next.pool, next.members = p, p.Members[:p.Eligible]
	*w = next
	w.setPool()
	w.refreshed()
}

func (w *worker) Refresh(active []uint32, packets, bytes []uint64) {
	copy(w.active, active)
	copy(w.packets, packets)
	copy(w.bytes, bytes)
	w.refreshed()
}

func (w *worker) Ended(e *core.FlowEnd) { w.ended(e) }

// attempts is how often the host asks again.
const attempts = 3

func (w *worker) Pick(f *core.NewFlow) int {
	if len(w.members) == 0 {
		return -1
	}
	i := w.ask(f)
	for i >= 0 && w.full(i) && f.Attempt < attempts {
		f.Attempt++
		i = w.ask(f)
	}
	if i >= 0 && w.full(i) {
		i = w.anyNotFull(f)
	}
	if i >= 0 {
		w.active[i]++
		w.packets[i]++
	}
	return i
}

func (w *worker) ask(f *core.NewFlow) int {
	if i := w.pick(f); i >= 0 {
		return i
	}
	return lookup(w.pool.Lookup, f.Hash)
}

func (w *worker) anyNotFull(f *core.NewFlow) int {
	n := len(w.members)
	for k := range n {
		if i := (int(f.Hash%uint64(n)) + k) % n; !w.full(i) {
			return i
		}
	}
	return -1
}

func (w *worker) full(i int) bool {
	most := w.members[i].MaxFlows
	return most != 0 && w.active[i] >= most
}

// share returns the weight in slow start, in thousandths.
func (w *worker) share(i int) uint64 {
	return max(uint64(w.members[i].Weight)*uint64(w.members[i].Ramp), 1)
}

// notFull returns where a flow goes that was refused: the one with the highest score
// of those that take flows, the lowest rank first.
func (w *worker) notFull(key uint64, rank func(*core.Member) uint32) int {
	best, score := -1, func(i int) uint64 { return core.Mix(w.members[i].ID ^ key) }
	for i := range w.members {
		if w.full(i) {
			continue
		}
		if best < 0 || rank(&w.members[i]) < rank(&w.members[best]) ||
			rank(&w.members[i]) == rank(&w.members[best]) && score(i) > score(best) {
			best = i
		}
	}
	return best
}

func equal(*core.Member) uint32 { return 0 }

func lookup(l *core.Lookup, hash uint64) int {
	if i := l.At(hash); i != core.NoBackend {
		return int(i)
	}
	return -1
}
