package core

import "slices"

// LookupSize is the number of slots of a lookup table: a prime, over 100 times
// the number of backends one would put behind a VIP, so that shares are even
// to a per cent (Eisenbud et al., Maglev, NSDI 2016, §3.4 and §5.3).
const LookupSize = 65537

// NoBackend marks a slot of a lookup table that leads nowhere.
const NoBackend uint16 = 0xFFFF

// Candidate is one backend a lookup table spreads over.
type Candidate struct {
	ID     uint64
	Weight uint32
	Index  uint16 // what the table's slots say
}

// Lookup maps a flow's hash to a backend consistently: the same set of
// candidates gives the same table wherever it is built, and removing one moves
// few of the flows of the others. It is immutable.
type Lookup struct{ slots [LookupSize]uint16 }

// At is the Index of the candidate that hash falls to, or NoBackend.
func (l *Lookup) At(hash uint64) uint16 { return l.slots[hash%LookupSize] }

// LookupOf is the table with the given LookupSize slots, filled by somebody
// else; it copies them.
func LookupOf(slots []uint16) *Lookup {
	l := new(Lookup)
	copy(l.slots[:], slots)
	return l
}

// Remap is the table with every index i replaced by to(i).
func (l *Lookup) Remap(to func(uint16) uint16) *Lookup {
	out := new(Lookup)
	for i, s := range l.slots {
		out.slots[i] = NoBackend
		if s != NoBackend {
			out.slots[i] = to(s)
		}
	}
	return out
}

// Disruption is the share of the slots that went from one backend to another
// although the one they had is still there, 0 to 1: flows that moved without
// need. Both tables use the same indices; was has NoBackend for those that
// left.
func Disruption(was, now *Lookup) float64 {
	moved, stayed := 0, 0
	for i, s := range was.slots {
		switch {
		case s == NoBackend:
		case now.slots[i] == s:
			stayed++
		default:
			moved++
		}
	}
	return float64(moved) / float64(max(moved+stayed, 1))
}

// Slots is the whole table, for comparison and export.
func (l *Lookup) Slots() []uint16 { return l.slots[:] }

// NewLookup fills a table with Maglev's algorithm (listing 1 of the paper),
// weights by giving each candidate turns in proportion to its weight.
// Candidates of weight 0 get no slot; with none left every slot is NoBackend.
// The order of candidates does not matter. policies/hash.c holds the same
// function for the guest; a test keeps the two equal.
func NewLookup(candidates []Candidate) *Lookup {
	l := new(Lookup)
	for i := range l.slots {
		l.slots[i] = NoBackend
	}
	type turn struct {
		next, skip, weight, credit uint64
		index                      uint16
	}
	sorted := slices.Clone(candidates)
	slices.SortFunc(sorted, func(a, b Candidate) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	var turns []turn
	var heaviest uint64
	for _, c := range sorted {
		if c.Weight == 0 {
			continue
		}
		turns = append(turns, turn{
			next:   Mix(c.ID) % LookupSize,
			skip:   Mix(c.ID^0xa5a5a5a5a5a5a5a5)%(LookupSize-1) + 1,
			weight: uint64(c.Weight),
			index:  c.Index,
		})
		heaviest = max(heaviest, uint64(c.Weight))
	}
	for filled := 0; len(turns) > 0; {
		for i := range turns {
			t := &turns[i]
			if t.credit += t.weight; t.credit < heaviest {
				continue
			}
			t.credit -= heaviest
			for l.slots[t.next] != NoBackend {
				t.next = (t.next + t.skip) % LookupSize
			}
			l.slots[t.next] = t.index
			if filled++; filled == LookupSize {
				return l
			}
		}
	}
	return l
}
