package sources

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/forward"
	"github.com/caplance/caplance/core/netmon"
	"github.com/caplance/caplance/core/registry"
	"github.com/caplance/caplance/core/state"
)

// RegistrySettings returns what the registry may change while it runs.
func (s *Sources) RegistrySettings(cfg *config.Server) registry.Settings {
	r := cfg.Registry
	if r.Auth != config.AuthNone && r.Own == nil {
		panic("who agents are is asked for, but the balancer's key or certificate was not loaded") // else everybody would be let in
	}
	out := registry.Settings{
		Agents: r.Agents, Lease: r.Lease, Grace: r.Grace, PlainLease: r.PlainLease, Rejoin: r.Rejoin, WriteTimeout: r.WriteTimeout,
		SanityTimeout: r.SanityTimeout, Limits: registry.Limits(r.Limits), DrainTimeout: r.DrainTimeout, Allow: r.Allow, Own: r.Own, Known: cfg.Known,
	}
	if s.Agents != nil {
		out.Known = s.Agents(cfg)
	}
	for _, svc := range cfg.Services {
		out.Services = append(out.Services, svc.Name)
	}
	if len(out.Agents) == 0 && s.Net != nil {
		out.Agents = s.Net.Network().Connected(r.Listen.Addr())
	}
	return out
}

// Offer returns what a backend's agent sets up.
func (s *Sources) Offer(b core.Backend) registry.Offer {
	p, err := s.path(b.Addr)
	if err != nil {
		return registry.Offer{}
	}
	b = b.WithPath(&p)
	o := registry.Offer{MTU: p.MTU, TunnelMTU: p.MTU, Direct: true}
	if p.Source.IsValid() {
		o.Balancers = []netip.Addr{p.Source}
	}
	seen := map[netip.Addr]bool{}
	for _, svc := range s.Store.Snapshot().Services.For(&b) {
		o.Services = append(o.Services, svc)
		if !seen[svc.VIP] {
			seen[svc.VIP] = true
			o.VIPs = append(o.VIPs, svc.VIP)
		}
		o.Direct = o.Direct && b.ModeIn(svc) == core.ModeDirect
	}
	if o.Direct {
		o.MTU = p.LinkMTU
	}
	return o
}

// Apply takes the registered backends into the state.
func (s *Sources) Apply(list []core.Backend) uint64 {
	addrs := make([]netip.Addr, len(list))
	for i := range list {
		addrs[i] = list[i].Addr
	}
	s.static.mu.Lock()
	s.static.agents = addrs
	s.watch()
	s.static.mu.Unlock()
	revision, err := s.Store.Update("registry", func(dr *state.Draft) error {
		for _, a := range addrs {
			s.setPath(dr, a)
		}
		dr.SetBackends(list)
		return nil
	})
	if err != nil { // nothing in it can fail
		s.Log.Error("backends not taken", "err", err)
	}
	return revision
}

// followOffers has the registry tell agents when the services change what they
// are to set up. followNetwork does so when their paths change.
func (s *Sources) followOffers(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	last := s.Store.Snapshot().Services
	s.Store.Notify(func(snap *core.Snapshot) {
		if snap.Services != last {
			last = snap.Services
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	})
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			s.Registry.Offers()
			s.Registry.Recheck()
		}
	}
}

// offered is what an agent is told of a path.
type offered struct {
	source, hop  netip.Addr
	mtu, linkMTU int
}

func offeredOf(p core.Path) offered { return offered{p.Source, p.NextHop, p.MTU, p.LinkMTU} }

// path returns how packets get to a backend.
func (s *Sources) path(addr netip.Addr) (core.Path, error) {
	p, err := s.Net.Path(addr)
	if err != nil {
		return core.Path{}, fmt.Errorf("backend: %w", err)
	}
	return corePath(addr, p), nil
}

// corePath returns a path as the state has it.
func corePath(addr netip.Addr, p netmon.Path) core.Path {
	return core.Path{
		Source: p.Source, MTU: p.MTU - forward.Overhead(addr), LinkMTU: p.MTU, Link: p.Link,
		LinkMAC: core.MAC(p.LinkMAC), NextHop: p.NextHop, MAC: core.MAC(p.MAC), Bare: p.Bare,
	}
}
