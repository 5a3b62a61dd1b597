package counters

import (
	"sync/atomic"
	"time"
)

// MaxBounds is how many bounds a Histogram may have.
const MaxBounds = 15

// PickBounds are those of how long picks take.
var PickBounds = []time.Duration{
	100, 200, 500, time.Microsecond, 2 * time.Microsecond, 5 * time.Microsecond, 10 * time.Microsecond, 20 * time.Microsecond, 50 * time.Microsecond,
	100 * time.Microsecond, 200 * time.Microsecond, 500 * time.Microsecond, time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond,
}

// Histogram counts durations by size. One goroutine observes, which takes no lock and
// allocates nothing; anyone may read.
type Histogram struct {
	Bounds []time.Duration // ascending, at most MaxBounds; constant

	counts [MaxBounds + 1]atomic.Uint64
	sum    atomic.Uint64 // ns
}

// Observe counts one.
func (h *Histogram) Observe(d time.Duration) {
	i := 0
	for i < len(h.Bounds) && d > h.Bounds[i] {
		i++
	}
	h.sum.Add(uint64(max(d, 0)))
	h.counts[i].Add(1)
}

// Distribution is the sum of histograms with the same bounds. The zero value is of
// none.
type Distribution struct {
	Bounds []time.Duration
	Counts []uint64 // by bound: durations that are not longer; without those beyond the last one
	Count  uint64   // in all
	Sum    time.Duration
}

// Add adds what a histogram has counted.
func (d *Distribution) Add(h *Histogram) {
	if d.Bounds == nil {
		d.Bounds, d.Counts = h.Bounds, make([]uint64, len(h.Bounds))
	}
	n := uint64(0)
	for i := range h.Bounds {
		n += h.counts[i].Load()
		d.Counts[i] += n
	}
	d.Count += n + h.counts[len(h.Bounds)].Load()
	d.Sum += time.Duration(h.sum.Load())
}
