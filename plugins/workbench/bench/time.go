package bench

import (
	"runtime"
	"slices"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/workbench/trial"
)

// batch is how many picks the p50 takes the mean of: reading the clock costs
// as much as a pick.
const batch = 50

// time times single picks, for the p99 and the maximum, and batches of them,
// for the p50. What reading the clock costs is taken off. warm is called after
// each of the picks that come before.
func (r *Row) time(pick func(*core.NewFlow), warm func(), opt Options) {
	if opt.Picks == 0 {
		opt.Picks = DefaultPicks
	}
	flows := trial.NewFlows(opt.Seed)
	list := make([]core.NewFlow, 4096)
	for i := range list {
		list[i] = flows.Next()
	}
	at := func(i int) *core.NewFlow { return &list[i%len(list)] }
	for i := range opt.Picks / 10 { // caches warm up, heaps grow
		pick(at(i))
		warm()
	}
	single, batches := make([]float64, opt.Picks/2), make([]float64, opt.Picks/2/batch)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range single {
		begin := time.Now()
		pick(at(i))
		single[i] = since(begin)
	}
	for i := range batches {
		begin := time.Now()
		for j := range batch {
			pick(at(i*batch + j))
		}
		batches[i] = since(begin) / batch
	}
	runtime.ReadMemStats(&after)
	r.Allocs = float64(after.Mallocs-before.Mallocs) / float64(len(single)+batch*len(batches))
	if r.Allocs < 0.01 {
		r.Allocs = 0 // those were the Go runtime's own
	}
	clock := clockCost()
	slices.Sort(single)
	slices.Sort(batches)
	r.P50 = batches[len(batches)/2]
	r.P99 = max(r.P50, single[len(single)*99/100]-clock)
	r.Max = max(r.P99, single[len(single)-1]-clock)
}

// clockCost returns what timing nothing gives, in ns.
func clockCost() float64 {
	empty := make([]float64, 1001)
	for i := range empty {
		begin := time.Now()
		empty[i] = since(begin)
	}
	slices.Sort(empty)
	return empty[len(empty)/2]
}
