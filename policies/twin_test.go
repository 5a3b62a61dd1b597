package policies_test

import (
	"cmp"

	"github.com/caplance/caplance/core"
)

// A twin is a policy once more, in Go and as plainly as can be: linear scans,
// no trees, no tables of its own. The guests are compared with their twins.
type twin interface {
	setPool(p *core.Pool)
	refresh(packets []uint64)
	pick(f *core.NewFlow) int
}

var twins = map[string]func(worker, workers int) twin{
	"hash":          func(int, int) twin { return new(hashTwin) },
	"round-robin":   func(w, n int) twin { return &roundRobinTwin{worker: w, workers: n} },
	"least-packets": func(int, int) twin { return new(leastPacketsTwin) },
}

type hashTwin struct{ pool *core.Pool }

func (h *hashTwin) setPool(p *core.Pool)     { h.pool = p }
func (h *hashTwin) refresh([]uint64)         {}
func (h *hashTwin) pick(f *core.NewFlow) int { return int(h.pool.Lookup.At(f.Hash)) }

type roundRobinTwin struct {
	worker, workers int
	pool            *core.Pool
	turns           map[uint64]uint64 // by backend id
	now             uint64
}

func stride(m *core.Member) uint64 { return 1 << 40 / uint64(m.Weight) }

func (r *roundRobinTwin) setPool(p *core.Pool) {
	turns := make(map[uint64]uint64)
	n := p.Eligible
	for i := range p.Members[:n] {
		m := &p.Members[i]
		if turn, ok := r.turns[m.ID]; ok {
			turns[m.ID] = min(turn, r.now+stride(m)-1)
		} else {
			phase := uint64((i+n-n*r.worker/r.workers)%n) << 16 / uint64(n)
			turns[m.ID] = r.now + stride(m)*phase>>16
		}
	}
	r.pool, r.turns = p, turns
}

func (r *roundRobinTwin) refresh([]uint64) {}

func (r *roundRobinTwin) pick(*core.NewFlow) int {
	first := 0
	for i := range r.pool.Members[:r.pool.Eligible] {
		m, f := &r.pool.Members[i], &r.pool.Members[first]
		if cmp.Or(cmp.Compare(r.turns[m.ID], r.turns[f.ID]), cmp.Compare(stride(m), stride(f))) < 0 {
			first = i
		}
	}
	m := &r.pool.Members[first]
	r.now = r.turns[m.ID]
	r.turns[m.ID] += stride(m)
	return first
}

// leastPacketsTwin counts for itself; the pool of a test keeps its members.
type leastPacketsTwin struct {
	pool    *core.Pool
	packets []uint64
	stale   bool
	start   int
}

func (l *leastPacketsTwin) setPool(p *core.Pool) {
	l.pool, l.packets, l.stale = p, make([]uint64, len(p.Members)), true
}

func (l *leastPacketsTwin) refresh(packets []uint64) {
	copy(l.packets, packets)
	l.stale = true
}

func (l *leastPacketsTwin) pick(f *core.NewFlow) int {
	n := l.pool.Eligible
	if l.stale {
		l.start, l.stale = int(f.Rand%uint64(n)), false
	}
	best := -1
	for k := range n {
		i := (l.start + k) % n
		if best < 0 || l.load(i) < l.load(best) {
			best = i
		}
	}
	l.packets[best]++
	return best
}

func (l *leastPacketsTwin) load(i int) float64 {
	return float64(l.packets[i]) * (1 / float64(l.pool.Members[i].Weight))
}
