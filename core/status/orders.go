package status

import (
	"slices"
	"strings"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/api"
)

// backendRow returns what is shown of a member without its counters.
func backendRow(svc *core.Service, b *core.Member) api.BackendRow {
	return api.BackendRow{
		Service: svc.Name, Name: b.Name, Addr: b.Addr, Mode: b.Mode.String(), State: b.State, Weight: b.Weight, Since: b.Since,
		AgentState: b.Own, AgentWeight: b.OwnWeight, Reason: b.Reason, Warning: b.Narrow,
	}
}

// withOrders adds the operator's orders to rows, and rows for backends that are in
// no pool: held out of it, or absent.
func (m *Model) withOrders(rows []api.BackendRow, snap *core.Snapshot, f api.BackendFilter) []api.BackendRow {
	for _, svc := range snap.Services.List {
		pool := snap.Pools.Of(svc.ID)
		for i := range pool.Out {
			b := &pool.Out[i]
			if (f.Service == "" || f.Service == svc.Name) && (f.Backend == "" || f.Backend == b.Name) {
				rows = append(rows, backendRow(svc, b))
			}
		}
	}
	orders := m.Orders()
	named := map[string][]int{} // rows by backend
	for i := 0; i < len(rows) && len(orders) > 0; i++ {
		named[rows[i].Name] = append(named[rows[i].Name], i)
	}
	for _, o := range orders {
		if f.Service != "" && o.Service != "" && f.Service != o.Service || f.Backend != "" && f.Backend != o.Backend {
			continue
		}
		there := false
		for _, i := range named[o.Backend] {
			if r := &rows[i]; o.Service == "" || r.Service == o.Service {
				r.Admin, there = append(r.Admin, o), true
			}
		}
		if !there {
			named[o.Backend] = append(named[o.Backend], len(rows))
			rows = append(rows, api.BackendRow{Service: o.Service, Name: o.Backend, State: core.Absent, AgentState: core.Absent, Admin: []api.AdminRow{o}})
		}
	}
	place := map[string]int{"": -1} // in the order of the services; absent ones of all first
	for i, svc := range snap.Services.List {
		place[svc.Name] = i
	}
	slices.SortStableFunc(rows, func(a, b api.BackendRow) int {
		if d := place[a.Service] - place[b.Service]; d != 0 {
			return d
		}
		return strings.Compare(a.Name, b.Name)
	})
	return rows
}
