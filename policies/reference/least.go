package reference

import (
	"math"

	"github.com/caplance/caplance/core"
)

// least is the backend with the least load; of equals the next one after a
// random start.
type least struct {
	*worker
	load  func(i int) float64
	fresh bool // nothing was picked since the counters were overwritten
	start int
}

func (w *worker) activePerRamp(i int) float64 {
	return float64(w.active[i]) * (1000 / float64(max(w.members[i].Ramp, 1)))
}

func (w *worker) activePerShare(i int) float64 {
	return float64(w.active[i]) * (1000 / float64(w.share(i)))
}

func (w *worker) packetsPerShare(i int) float64 {
	return float64(w.packets[i]) * (1000 / float64(w.share(i)))
}

func (l *least) setPool()            {}
func (l *least) refreshed()          { l.fresh = true }
func (l *least) ended(*core.FlowEnd) {}

// key returns the load to 40 bits of its mantissa: the guest keeps the position in
// the rest.
func (l *least) key(i int) uint64 { return math.Float64bits(l.load(i)) >> 12 }

func (l *least) pick(f *core.NewFlow) int {
	n := len(l.members)
	if l.fresh {
		l.start, l.fresh = int(f.Rand%uint64(n)), false
	}
	best := -1
	for k := range n {
		if i := (l.start + k) % n; !l.full(i) && (best < 0 || l.key(i) < l.key(best)) {
			best = i
		}
	}
	return best
}

// leastBytes takes every flow for an average one until its bytes are counted.
type leastBytes struct {
	least
	placed      []float64
	mean, guess float64
}

func newLeastBytes(w *worker) *leastBytes {
	l := &leastBytes{least: least{worker: w}, mean: 10000}
	l.load = func(i int) float64 {
		return (float64(w.bytes[i]) + float64(l.placed[i]*l.guess)) * (1000 / float64(w.share(i)))
	}
	return l
}

func (l *leastBytes) ended(e *core.FlowEnd) { l.mean += (float64(e.Bytes) - l.mean) / 64 }

func (l *leastBytes) pick(f *core.NewFlow) int {
	if l.fresh {
		l.placed, l.guess = make([]float64, len(l.members)), l.mean
	}
	i := l.least.pick(f)
	if i >= 0 {
		l.placed[i]++
	}
	return i
}
