package state

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/netmon"
)

// inputs are what the sources have said. Setters replace its parts and never
// change them, so that a draft can be given up.
type inputs struct {
	services []*core.Service // with IDs
	leaving  []*core.Service // that the configuration has dropped
	settings *core.Settings
	settled  bool
	links    []string       // names; empty: every Ethernet link with an address
	backends []core.Backend // of agents
	static   []core.Backend // that the configuration names
	admin    core.AdminSet
	network  *netmon.Network
	paths    map[netip.Addr]*core.Path
	lookups  map[core.ServiceID]*core.Lookup
	tables   map[core.ServiceID]*core.Lookup
}

// Draft is a change under way.
type Draft struct {
	in      inputs
	store   *Store
	done    []string
	ramping bool

	touched  touched
	ownPaths bool // in.paths is a copy of this draft's own
}

// touched is what of the inputs may be another than before.
type touched struct {
	services, network, links, backends bool
	tables                             []core.ServiceID // lookup tables, or the policies'
	admin                              []core.AdminKey
}

// SetServices makes these the configured services, in this order, and gives
// them their IDs: a name keeps its own. Services that are not named any more
// are leaving; Forget ends them.
func (d *Draft) SetServices(list []*core.Service) error {
	if len(list)+len(d.in.leaving) > core.MaxServices {
		return fmt.Errorf("service: %d are more than there can be (%d)", len(list), core.MaxServices)
	}
	d.touched.services = true
	var next []*core.Service
	named := map[string]bool{}
	for _, svc := range list {
		svc := *svc
		svc.Leaving = false
		next, named[svc.Name] = append(next, &svc), true
	}
	leaving := slices.Clone(d.in.leaving)
	for _, old := range d.in.services {
		if !named[old.Name] {
			gone := *old
			gone.Leaving = true
			leaving = append(leaving, &gone)
		}
	}
	leaving = slices.DeleteFunc(leaving, func(old *core.Service) bool { // it is back, with its flows
		return named[old.Name]
	})
	for _, svc := range next {
		svc.ID = core.ServiceID(d.store.services.take(svc.Name))
	}
	d.in.services, d.in.leaving = reuse(d.in.services, next), leaving
	return nil
}

// reuse returns next with those services of was that did not change, so that
// readers see it.
func reuse(was, next []*core.Service) []*core.Service {
	byName := make(map[string]*core.Service, len(was))
	for _, old := range was {
		byName[old.Name] = old
	}
	reuseClients(was, next)
	for i, svc := range next {
		if old := byName[svc.Name]; old != nil && sameService(old, svc) {
			next[i] = old
		}
	}
	return next
}

// reuseClients gives the services of next, which may be changed, those lists of clients
// of was that say the same.
func reuseClients(was, next []*core.Service) {
	kept := map[*core.Clients]*core.Clients{nil: nil} // by those that are compared already
	var had []*core.Clients
	for _, old := range was {
		if !slices.Contains(had, old.Clients) {
			had = append(had, old.Clients)
		}
	}
	for _, svc := range next {
		if _, ok := kept[svc.Clients]; !ok {
			kept[svc.Clients] = svc.Clients
			if i := slices.IndexFunc(had, svc.Clients.Equal); i >= 0 {
				kept[svc.Clients] = had[i]
			}
		}
		svc.Clients = kept[svc.Clients]
	}
}

func sameService(a, b *core.Service) bool {
	x, y := *a, *b
	x.Protos, x.Ports, x.Config, y.Protos, y.Ports, y.Config = nil, nil, nil, nil, nil, nil
	x.Clients, y.Clients = nil, nil // its lists are in it: they may be long
	x.Allow, x.Deny, x.AllowFile, x.DenyFile, y.Allow, y.Deny, y.AllowFile, y.DenyFile = nil, nil, core.ClientFile{}, core.ClientFile{}, nil, nil, core.ClientFile{}, core.ClientFile{}
	return a.Clients == b.Clients && fmt.Sprint(x) == fmt.Sprint(y) && slices.Equal(a.Protos, b.Protos) && slices.Equal(a.Ports, b.Ports) && string(a.Config) == string(b.Config)
}

// Forget ends a leaving service: nothing is kept of it.
func (d *Draft) Forget(id core.ServiceID) {
	d.touched.services = true
	d.in.leaving = slices.DeleteFunc(slices.Clone(d.in.leaving), func(s *core.Service) bool { return s.ID == id })
	d.in.lookups, d.in.tables = without(d.in.lookups, id), without(d.in.tables, id)
}

func without(m map[core.ServiceID]*core.Lookup, id core.ServiceID) map[core.ServiceID]*core.Lookup {
	if m[id] == nil {
		return m
	}
	out := maps.Clone(m)
	delete(out, id)
	return out
}

// SetSettings sets how the datapath is to be.
func (d *Draft) SetSettings(s core.Settings) {
	if d.in.settings == nil || *d.in.settings != s {
		d.in.settings = &s
	}
}

// Settle says that backends have had the time since the start to register.
func (d *Draft) Settle() { d.in.settled = true }

// SetLinks names the links that clients come in by; none are all Ethernet links
// with an address.
func (d *Draft) SetLinks(names []string) {
	d.in.links, d.touched.links = slices.Clone(names), true
}

// SetBackends sets who is registered, ordered by name.
func (d *Draft) SetBackends(list []core.Backend) {
	d.in.backends, d.touched.backends = slices.Clone(list), true
}

// SetStatic sets which backends the configuration names, in the order of
// core.CompareBackends. An agent's backend by the name of one gives way to it.
func (d *Draft) SetStatic(list []core.Backend) {
	d.in.static, d.touched.backends = slices.Clone(list), true
}

// SetAdmin sets what the operator orders, which belongs to the state from then
// on.
func (d *Draft) SetAdmin(set core.AdminSet) {
	for key, a := range set {
		if old, ok := d.in.admin[key]; !ok || old != a {
			d.touched.admin = append(d.touched.admin, key)
		}
	}
	for key := range d.in.admin {
		if _, ok := set[key]; !ok {
			d.touched.admin = append(d.touched.admin, key)
		}
	}
	d.in.admin = set
}

// SetNetwork sets how the network is, and how the backends are reached.
func (d *Draft) SetNetwork(n *netmon.Network, paths map[netip.Addr]core.Path) {
	d.touched.network = d.touched.network || d.in.network != n
	d.touched.backends = true
	d.in.network = n
	next := make(map[netip.Addr]*core.Path, len(paths))
	for _, list := range [][]core.Backend{d.in.backends, d.in.static} { // one without a route keeps its last path
		for i := range list {
			if p := d.in.paths[list[i].Addr]; p != nil {
				next[list[i].Addr] = p
			}
		}
	}
	for addr, p := range paths {
		if old := d.in.paths[addr]; old != nil && *old == p {
			next[addr] = old
		} else {
			next[addr] = &p
		}
	}
	d.in.paths, d.ownPaths = next, true
}

// HasPath reports whether it is known how a backend is reached.
func (d *Draft) HasPath(addr netip.Addr) bool { return d.in.paths[addr] != nil }

// SetPath sets how one backend is reached.
func (d *Draft) SetPath(addr netip.Addr, p core.Path) {
	if old := d.in.paths[addr]; old != nil && *old == p {
		return
	}
	if !d.ownPaths {
		d.in.paths, d.ownPaths = maps.Clone(d.in.paths), true
	}
	if d.in.paths == nil {
		d.in.paths = map[netip.Addr]*core.Path{}
	}
	d.in.paths[addr], d.touched.backends = &p, true
}

// SetLookup gives a service another lookup table.
func (d *Draft) SetLookup(id core.ServiceID, l *core.Lookup) {
	d.in.lookups = d.with(d.in.lookups, id, l)
}

// SetTable gives a service another table of its policy's, nil for none.
func (d *Draft) SetTable(id core.ServiceID, t *core.Lookup) {
	if t == nil {
		d.touched.tables = append(d.touched.tables, id)
		d.in.tables = without(d.in.tables, id)
		return
	}
	d.in.tables = d.with(d.in.tables, id, t)
}

func (d *Draft) with(m map[core.ServiceID]*core.Lookup, id core.ServiceID, l *core.Lookup) map[core.ServiceID]*core.Lookup {
	d.touched.tables = append(d.touched.tables, id)
	out := maps.Clone(m)
	if out == nil {
		out = map[core.ServiceID]*core.Lookup{}
	}
	out[id] = l
	return out
}

// Ramp brings slow starts up to date.
func (d *Draft) Ramp() { d.ramping = true }

// Done marks a source as having spoken: pruning need not wait for it any more.
func (d *Draft) Done(source string) { d.done = append(d.done, source) }
