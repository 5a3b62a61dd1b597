package reference

import (
	"cmp"
	"slices"

	"github.com/caplance/caplance/core"
)

// Table returns what the maglev policy makes of a pool: the pool's own lookup table,
// except that nobody goes without a slot, who then takes the first of its
// preferences whose owner has others.
func Table(p *core.Pool) *core.Lookup {
	slots := slices.Clone(p.Lookup.Slots())
	share := make([]int, p.Eligible)
	for _, s := range slots {
		if s != core.NoBackend {
			share[s]++
		}
	}
	order := make([]int, p.Eligible)
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(p.Members[a].ID, p.Members[b].ID) })
	for _, i := range order {
		if share[i] > 0 {
			continue
		}
		id := p.Members[i].ID
		at, skip := core.Mix(id)%core.LookupSize, core.Mix(id^0xa5a5a5a5a5a5a5a5)%(core.LookupSize-1)+1
		for share[slots[at]] < 2 {
			at = (at + skip) % core.LookupSize
		}
		share[slots[at]]--
		slots[at], share[i] = uint16(i), 1
	}
	return core.LookupOf(slots, nil)
}

// maglev is table mode: a full backend's flows are the host's business.
type maglev struct {
	*worker
	stateless
	table *core.Lookup
}

func (m *maglev) setPool() { m.table = Table(m.pool) }

func (m *maglev) pick(f *core.NewFlow) int { return lookup(m.table, f.Hash) }
