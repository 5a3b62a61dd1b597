package reference

import (
	"math"

	"github.com/caplance/caplance/core"
)

type random struct {
	*worker
	stateless
}

// draw returns the first backend whose shares, with those before it, go beyond x of
// 2³²−1.
func (r *random) draw(x uint32) int {
	var total, sum float64
	for i := range r.members {
		total += float64(r.share(i))
	}
	last := len(r.members) - 1
	for i := range last {
		sum += float64(r.share(i))
		if uint32(sum/total*math.MaxUint32) > x {
			return i
		}
	}
	return last
}

func (r *random) pick(f *core.NewFlow) int {
	if f.Attempt > 0 {
		return r.notFull(f.Rand, equal)
	}
	return r.draw(uint32(f.Rand))
}

type twoChoices struct{ random }

func (t *twoChoices) pick(f *core.NewFlow) int {
	a, b := t.draw(uint32(f.Rand)), t.draw(uint32(f.Rand>>32))
	if a == b {
		b = (b + 1) % len(t.members)
	}
	switch {
	case f.Attempt > 0, t.full(a) && t.full(b):
		return t.notFull(f.Rand, equal)
	case t.full(a):
		return b
	case t.full(b):
		return a
	}
	if float64(t.active[b])*float64(t.share(a)) < float64(t.active[a])*float64(t.share(b)) {
		return b
	}
	return a
}

// leastLoad draws as twoChoices, though perhaps the same one twice, and looks at
// the load first.
type leastLoad struct{ random }

func (l *leastLoad) pick(f *core.NewFlow) int {
	a, b := l.draw(uint32(f.Rand)), l.draw(uint32(f.Rand>>32))
	switch {
	case f.Attempt > 0, l.full(a) && l.full(b):
		return l.notFull(f.Rand, equal)
	case l.full(a):
		return b
	case l.full(b):
		return a
	case l.better(b, a):
		return b
	}
	return a
}

func (l *leastLoad) better(b, a int) bool {
	const step = 50 // per mille
	x, y := l.members[a].Vitals.Load(), l.members[b].Vitals.Load()
	if x != core.UnknownLoad && y != core.UnknownLoad && x/step != y/step {
		return y < x
	}
	return float64(l.active[b])*float64(l.share(a)) < float64(l.active[a])*float64(l.share(b))
}
