package core

import "slices"

// LookupSize is the number of slots of a lookup table: a prime, over 100 times
// the number of backends one would put behind a VIP, so that shares are even
// to a per cent (Eisenbud et al., Maglev, NSDI 2016, §3.4 and §5.3).
const LookupSize = 65537

// NoBackend marks a slot of a lookup table that leads nowhere.
const NoBackend uint16 = 0xFFFF

// Candidate is one backend that a lookup table spreads over.
type Candidate struct {
	ID     uint64
	Weight uint32
	Index  uint16 // what the table's slots say
	Handle Handle // what Lookup.Handle returns
}

// Lookup maps a flow's hash to a backend consistently: the same set of
// candidates gives the same table wherever it is built, and removing one moves
// few of the flows of the others. It is immutable. It names backends by their
// handles, so that it stays valid for later pools.
type Lookup struct {
	slots   [LookupSize]uint16
	handles []Handle // by what slots say; nil for a table that no pool uses
}

// At returns the Index of the candidate that hash falls to, or NoBackend.
func (l *Lookup) At(hash uint64) uint16 { return l.slots[hash%LookupSize] }

// Handle returns the membership that hash falls to, or 0.
func (l *Lookup) Handle(hash uint64) Handle {
	i := l.At(hash)
	if int(i) >= len(l.handles) {
		return 0
	}
	return l.handles[i]
}

// Slots returns the whole table, for comparison and export.
func (l *Lookup) Slots() []uint16 { return l.slots[:] }

// Handles returns what the slots' values stand for.
func (l *Lookup) Handles() []Handle { return l.handles }

// Equal reports whether two tables send every hash to the same membership, by
// the same values.
func (l *Lookup) Equal(o *Lookup) bool {
	return l == o || l.slots == o.slots && slices.Equal(l.handles, o.handles)
}

// LookupOf returns the table with the given LookupSize slots, filled by
// somebody else; it copies them. handles say what the slots' values stand for,
// nil where nobody asks.
func LookupOf(slots []uint16, handles []Handle) *Lookup {
	l := &Lookup{handles: handles}
	copy(l.slots[:], slots)
	return l
}

// Disruption returns the share of the slots that went from one backend to
// another although the one they had is still eligible in p, 0 to 1: flows that
// moved without need.
func Disruption(p *Pool, was, now *Lookup) float64 {
	moved, stayed := 0, 0
	for i, s := range was.slots {
		if int(s) >= len(was.handles) {
			continue
		}
		h := was.handles[s]
		if at, ok := p.Find(h); !ok || at >= p.Eligible {
			continue
		}
		if to := now.slots[i]; int(to) < len(now.handles) && now.handles[to] == h {
			stayed++
		} else {
			moved++
		}
	}
	return float64(moved) / float64(max(moved+stayed, 1))
}

// turn is one candidate while a table is filled.
type turn struct {
	next, skip, weight, credit uint64
	index                      uint16
}

// NewLookup fills a table with Maglev's algorithm (listing 1 of the paper),
// weights by giving each candidate turns in proportion to its weight.
// Candidates of weight 0 get no slot; with none left every slot is NoBackend.
// The order of candidates does not matter. policies/hash.c holds the same
// function for the guest; a test keeps the two equal.
func NewLookup(candidates []Candidate) *Lookup {
	l := &Lookup{handles: handlesOf(candidates)}
	for i := range l.slots {
		l.slots[i] = NoBackend
	}
	turns, heaviest := turnsOf(candidates)
	for filled := 0; len(turns) > 0; {
		for i := range turns {
			t := &turns[i]
			if t.credit += t.weight; t.credit < heaviest {
				continue
			}
			t.credit -= heaviest
			for l.slots[t.next] != NoBackend {
				if t.next += t.skip; t.next >= LookupSize {
					t.next -= LookupSize
				}
			}
			l.slots[t.next] = t.index
			if filled++; filled == LookupSize {
				return l
			}
		}
	}
	return l
}

// handlesOf returns the candidates' handles by Index, nil if they have none.
func handlesOf(candidates []Candidate) []Handle {
	var out []Handle
	for _, c := range candidates {
		if c.Handle == 0 || c.Index == NoBackend {
			continue
		}
		for len(out) <= int(c.Index) {
			out = append(out, 0)
		}
		out[c.Index] = c.Handle
	}
	return out
}

func turnsOf(candidates []Candidate) (turns []turn, heaviest uint64) {
	sorted := slices.Clone(candidates)
	slices.SortFunc(sorted, func(a, b Candidate) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
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
	return turns, heaviest
}
