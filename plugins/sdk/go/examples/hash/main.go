// hash: the 5-tuple decides, by a lookup table that changes as little as
// possible when the pool does (Eisenbud et al., Maglev, NSDI 2016, listing 1),
// with weights. It is the function of the bundled policy of that name.
package main

import (
	"cmp"
	"slices"

	caplance "github.com/caplance/caplance/plugins/sdk/go"
)

const slots = 65537

type turn struct {
	next, skip, weight, credit uint64
	index                      int
}

type hash struct{ table [slots]uint16 }

func mix(x uint64) uint64 {
	x = (x ^ x>>32) * 0xd6e8feb86659fd93
	x = (x ^ x>>32) * 0xd6e8feb86659fd93
	return x ^ x>>32
}

func (h *hash) SetPool(p *caplance.Pool) error {
	all := p.Backends[:p.Eligible]
	turns, heaviest := make([]turn, len(all)), uint64(0)
	for i, b := range all {
		turns[i] = turn{mix(b.ID) % slots, mix(b.ID^0xa5a5a5a5a5a5a5a5)%(slots-1) + 1, uint64(b.Weight), 0, i}
		heaviest = max(heaviest, uint64(b.Weight))
	}
	// The order of the pool must not matter.
	slices.SortFunc(turns, func(a, b turn) int { return cmp.Compare(all[a.index].ID, all[b.index].ID) })
	var taken [slots]bool
	for filled := 0; heaviest > 0; {
		for i := range turns {
			t := &turns[i]
			if t.credit += t.weight; t.credit < heaviest {
				continue
			}
			t.credit -= heaviest
			for taken[t.next] {
				t.next = (t.next + t.skip) % slots
			}
			taken[t.next], h.table[t.next] = true, uint16(t.index)
			if filled++; filled == slots {
				return nil
			}
		}
	}
	return nil
}

func (h *hash) Pick(f *caplance.Flow, _ *caplance.Pool) int { return int(h.table[f.Hash%slots]) }

func init() { caplance.Register(&hash{}) }

func main() {}
