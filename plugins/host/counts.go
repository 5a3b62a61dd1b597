package host

import (
	"math"

	"github.com/caplance/caplance/core"
)

// The counters that least-* policies compare.
const (
	countActive  = iota // open flows
	countPackets        // forwarded so far
	countBytes          // forwarded so far
	countKinds
)

// count is one counter of one backend: its global value, and what is added to
// it in the guest's view. A newcomer's true counters are zero; shown so, it
// would get every new flow until it had caught up with peers that have been
// there for days. So it starts level with them and keeps the offset.
type count struct {
	value  uint64
	offset uint64 // modulo 2⁶⁴: it is negative for a backend whose weight fell
}

func (c *count) shown() uint64 { return c.value + c.offset }

// raise lifts what is shown to at least v.
func (c *count) raise(v uint64) {
	if c.shown() < v {
		c.offset = v - c.value
	}
}

// counts are the counters of one member of the pool, by kind.
type counts [countKinds]count

// carry makes the counters for next out of those for prev, which may be nil.
//
// A member that was not eligible before, because it is new or because it was
// paused, draining or ill, starts at the lowest level of the eligible ones
// that stayed. A member whose weight changed keeps its level in packets and
// bytes: the new weight is to change its share from now on, not to settle
// accounts with the past.
func carry(prev *core.Pool, was []counts, next *core.Pool) []counts {
	now := make([]counts, len(next.Members))
	joins := make([]bool, len(next.Members))
	for i := range next.Members {
		m := &next.Members[i]
		joins[i] = true
		if prev == nil {
			continue
		}
		if j, ok := prev.Find(m.Handle); ok {
			now[i] = was[j]
			joins[i] = j >= prev.Eligible
			if from, to := share(&prev.Members[j]), share(m); from != to && from != 0 {
				for _, k := range [...]int{countPackets, countBytes} {
					c := &now[i][k]
					c.offset = scale(c.shown(), from, to) - c.value
				}
			}
		}
	}
	for k := range countKinds {
		level, ok := lowest(next, now, k, func(i int) bool { return !joins[i] })
		for i := range next.Members[:next.Eligible] {
			if ok && joins[i] {
				now[i][k].raise(level.of(share(&next.Members[i])))
			}
		}
	}
	return now
}

// settle lets the offsets of open flows die away. Packets and bytes only ever
// grow, so an offset in them is soon nothing; but open flows stay where they
// are, and an offset would keep a newcomer below its share for ever. It
// shrinks to what the newcomer really lacks and ends at zero.
func settle(p *core.Pool, now []counts) {
	level, ok := lowest(p, now, countActive, func(i int) bool { return now[i][countActive].offset == 0 })
	for i := range now {
		c := &now[i][countActive]
		if c.offset == 0 {
			continue
		}
		lacks := uint64(0)
		if w := share(&p.Members[i]); ok && level.of(w) > c.value {
			lacks = level.of(w) - c.value
		}
		c.offset = min(c.offset, lacks)
	}
}

// share returns the weight that counts in slow start, in thousandths.
func share(m *core.Member) uint64 { return uint64(m.Weight) * uint64(m.Ramp) }

// level is a counter per unit of weight, as a fraction.
type level struct{ value, share uint64 }

// of returns the counter that puts a backend of this share on the level.
func (l level) of(share uint64) uint64 { return scale(l.value, l.share, share) }

func (l level) below(m level) bool {
	return float64(l.value)*float64(m.share) < float64(m.value)*float64(l.share)
}

// scale returns v·to/from; float64 holds it exactly enough for comparing loads.
func scale(v, from, to uint64) uint64 {
	if from == to {
		return v
	}
	return uint64(min(float64(v)*float64(to)/float64(from), math.MaxInt64))
}

// lowest returns the lowest level of kind k among the eligible members that count.
func lowest(p *core.Pool, now []counts, k int, counted func(i int) bool) (low level, ok bool) {
	for i := range p.Members[:p.Eligible] {
		if l := (level{now[i][k].shown(), share(&p.Members[i])}); counted(i) && (!ok || l.below(low)) {
			low, ok = l, true
		}
	}
	return low, ok
}
