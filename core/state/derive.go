package state

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/netmon"
)

// derive returns the snapshot that follows from the inputs, nil if it is the
// one before.
func (s *Store) derive(was *core.Snapshot, in *inputs, d *Draft) *core.Snapshot {
	next := *was
	if in.settings != nil {
		next.Settings = in.settings
	}
	if d.touched.services {
		next.Services = deriveServices(was.Services, in)
	}
	if d.touched.services || d.touched.network || next.Settings != was.Settings {
		next.VIPs = s.deriveVIPs(was.VIPs, &next, in.network)
	}
	if d.touched.links || d.touched.network || next.VIPs != was.VIPs {
		next.Links = deriveLinks(was.Links, in, next.VIPs)
	}
	next.Pools = s.derivePools(was, &next, in, d)
	next.Complete, next.Settled = len(s.waiting) == 0, in.settled
	if next.Complete && len(s.kept) > 0 {
		s.giveUp(&next)
	}
	if next == *was {
		return nil
	}
	return &next
}

func deriveServices(was *core.ServiceSet, in *inputs) *core.ServiceSet {
	list := append(slices.Clone(in.services), in.leaving...)
	if slices.Equal(was.List, list) {
		return was
	}
	return core.NewServiceSet(list)
}

func (s *Store) deriveVIPs(was *core.VIPSet, next *core.Snapshot, n *netmon.Network) *core.VIPSet {
	wanted := map[string]bool{}
	var list []core.VIP
	for _, svc := range next.Services.List {
		key := svc.VIP.String()
		if wanted[key] {
			continue
		}
		wanted[key] = true
		list = append(list, core.VIP{Addr: svc.VIP, Number: s.vips.take(key), Link: linkOf(n, svc.VIP), Host: s.reachesHost(next.Settings.HostAccess, n, svc.VIP)})
	}
	if len(s.kept) == 0 { // else a predecessor's may come back
		s.vips.keep(func(k string) bool { return wanted[k] })
	}
	slices.SortFunc(list, func(a, b core.VIP) int { return a.Addr.Compare(b.Addr) })
	if slices.Equal(was.List, list) {
		return was
	}
	return &core.VIPSet{List: list}
}

// reachesHost reports whether what no service claims at a VIP is for the machine. One
// that has the address by itself, on any link, may be administered there.
func (s *Store) reachesHost(access core.HostAccess, n *netmon.Network, vip netip.Addr) bool {
	if access != core.HostOwn {
		return access == core.HostAlways
	}
	return n != nil && s.Ours != nil && slices.ContainsFunc(n.Addrs, func(a netmon.Addr) bool {
		return a.Prefix.Addr() == vip && !s.Ours(a.Link, vip)
	})
}

// linkOf returns where a VIP belongs.
func linkOf(n *netmon.Network, vip netip.Addr) core.Link {
	if n == nil {
		return core.Link{Name: "lo"}
	}
	l, _ := n.LinkOf(vip)
	return link(l)
}

func link(l netmon.Link) core.Link {
	return core.Link{Name: l.Name, Index: l.Index, MTU: l.MTU, MAC: core.MAC(l.MAC), Type: l.Type, Bare: l.Bare, Up: l.Up && l.Running, Epoch: l.Epoch}
}

func deriveLinks(was *core.LinkSet, in *inputs, vips *core.VIPSet) *core.LinkSet {
	out := &core.LinkSet{}
	if in.network != nil {
		for _, name := range in.links {
			l, _ := in.network.LinkByName(name)
			l.Name = name
			out.List = append(out.List, link(l))
		}
		if len(in.links) == 0 {
			for _, l := range in.network.Facing() {
				out.List = append(out.List, link(l))
			}
		}
	}
	slices.SortFunc(out.List, func(a, b core.Link) int { return a.Index - b.Index })
	for _, v := range vips.List {
		if v.Link.Name != "lo" {
			out.MTU = max(out.MTU, v.Link.MTU)
		}
	}
	if out.MTU == 0 {
		out.MTU = 1500
	}
	if was.MTU == out.MTU && slices.Equal(was.List, out.List) {
		return was
	}
	return out
}

// derivePools builds the pools anew that a change concerns, and looks at no
// other unless the services have changed.
func (s *Store) derivePools(was, next *core.Snapshot, in *inputs, d *Draft) *core.PoolSet {
	b := &builder{s: s, in: in, now: time.Now(), pools: map[core.ServiceID]*core.Pool{}, was: was.Pools}
	var changed []*core.Backend
	if d.touched.backends {
		full := withPaths(merge(in.backends, in.static), in.paths)
		changed = changedBackends(s.full, full)
		s.full = full
	}
	if next.Services != was.Services {
		b.services(next.Services)
	}
	if d.ramping {
		was.Pools.Each(func(p *core.Pool) {
			if ramping(p) {
				b.rebuild(p.Service)
			}
		})
	}
	b.affected(next.Services, changed)
	b.ordered(next.Services, d.touched.admin)
	for _, id := range d.touched.tables {
		b.finish(next.Services.Get(id))
	}
	b.build()
	if len(b.pools) == 0 {
		return was.Pools
	}
	return was.Pools.With(b.pools)
}

// finish gives a pool its tables.
func (s *Store) finish(p *core.Pool, in *inputs) *core.Pool {
	id := p.Service.ID
	lookup, table := in.lookups[id], in.tables[id]
	var mid *core.LateLookup
	if k := s.kept[p.Service.Name]; k != nil {
		mid = k.lookup
	} else if mid = s.late[p.Service.Name]; mid != nil {
		out := *p
		out.Lookup, out.Table = lookup, table
		if out.Tabled() {
			delete(s.late, p.Service.Name)
			mid = nil
		}
	}
	if p.Lookup == lookup && p.Table == table && p.MidFlow == mid {
		return p
	}
	out := *p
	out.Lookup, out.Table, out.MidFlow = lookup, table, mid
	s.versions++
	out.Version = s.versions
	return &out
}

// unknownPath is that of a backend without a route, or not looked up yet: the
// smallest that every IPv6 link has.
var unknownPath = core.Path{MTU: 1280 - 48, LinkMTU: 1280}

// merge returns the backends of agents and of the configuration, in their order.
func merge(agents, static []core.Backend) []core.Backend {
	if len(static) == 0 {
		return agents
	}
	out := slices.DeleteFunc(slices.Clone(agents), func(b core.Backend) bool {
		_, taken := slices.BinarySearchFunc(static, b.Name, func(s core.Backend, name string) int { return strings.Compare(s.Name, name) })
		return taken
	})
	out = append(out, static...)
	slices.SortFunc(out, func(a, b core.Backend) int { return core.CompareBackends(&a, &b) })
	return out
}

func withPaths(list []core.Backend, paths map[netip.Addr]*core.Path) []core.Backend {
	out := make([]core.Backend, len(list))
	for i, b := range list {
		p := paths[b.Addr]
		if p == nil {
			p = &unknownPath
		}
		out[i] = b.WithPath(p)
		if why := astray(&out[i], p); why != "" {
			out[i].State, out[i].Reason = core.Unreachable, why
		}
	}
	return out
}

// astray returns why no packet gets to a static backend the way that it is to take; an
// agent's goes another one, or its proofs say so.
func astray(b *core.Backend, p *core.Path) string {
	switch {
	case !b.Static:
	case p == &unknownPath:
		return fmt.Sprintf("no route to %v", b.Addr)
	case b.Mode == core.ModeDirect && !p.OnLink(b.Addr):
		return fmt.Sprintf("%v is behind %v: mode direct needs a backend on a link of the balancer's", b.Addr, p.NextHop)
	}
	return ""
}

// changedBackends returns those that came, left or changed, as they were and
// as they are. Both lists are in the order of core.CompareBackends.
func changedBackends(was, now []core.Backend) (out []*core.Backend) {
	i, j := 0, 0
	for i < len(was) || j < len(now) {
		switch {
		case j == len(now) || i < len(was) && core.CompareBackends(&was[i], &now[j]) < 0:
			out = append(out, &was[i])
			i++
		case i == len(was) || core.CompareBackends(&now[j], &was[i]) < 0:
			out = append(out, &now[j])
			j++
		default:
			if !sameBackend(&was[i], &now[j]) {
				out = append(out, &was[i], &now[j])
			}
			i, j = i+1, j+1
		}
	}
	return out
}

func sameBackend(a, b *core.Backend) bool {
	return a.Addr == b.Addr && slices.Equal(a.Services, b.Services) && (a.Services == nil) == (b.Services == nil) &&
		a.Weight == b.Weight && a.State == b.State && a.Since.Equal(b.Since) && a.MaxFlows == b.MaxFlows &&
		a.Priority == b.Priority && a.Zone == b.Zone && a.Label == b.Label && a.KernelDecap == b.KernelDecap && a.FoldsECN == b.FoldsECN && a.Tells == b.Tells &&
		a.Mode == b.Mode && a.Static == b.Static && a.Path == b.Path && a.Reason == b.Reason && a.Vitals == b.Vitals && a.Narrow == b.Narrow && slices.Equal(a.Down, b.Down) &&
		slices.Equal(a.VIPs, b.VIPs) && (a.VIPs == nil) == (b.VIPs == nil)
}

// ramping reports whether a member is in its slow start.
func ramping(p *core.Pool) bool {
	return slices.ContainsFunc(p.Members, func(m core.Member) bool { return m.Ramp < core.FullRamp })
}

// giveUp forgets what a predecessor left and nobody came back for. Its lookup tables
// are asked until there are others that know who has come back last: a moment earlier,
// and segments of that one's flows go elsewhere and are reset.
func (s *Store) giveUp(next *core.Snapshot) {
	s.kept, s.late = map[string]*keptPool{}, map[string]*core.LateLookup{}
	pools := map[core.ServiceID]*core.Pool{}
	next.Pools.Each(func(p *core.Pool) {
		for name, h := range maps.Clone(s.held[p.Service.ID]) {
			if h.kept {
				s.slots.Release(h.handle)
				delete(s.held[p.Service.ID], name)
			}
		}
		switch {
		case p.MidFlow == nil:
		case !p.Service.Leaving && !p.Tabled():
			s.late[p.Service.Name] = p.MidFlow
		default:
			out := *p
			out.MidFlow = nil
			pools[p.Service.ID] = &out
		}
	})
	if len(pools) > 0 {
		next.Pools = next.Pools.With(pools)
	}
}
