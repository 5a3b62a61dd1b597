package agent

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/hostnet"
)

// A balancer says which VIPs to put on lo, where each takes the packets to that
// address. What this machine needs itself is not given away.

// guard knows which addresses the machine needs now.
type guard struct {
	allowed  []netip.Prefix // vip_networks; none: every one
	own      map[netip.Addr]bool
	networks []netip.Prefix // connected ones
	gateways map[netip.Addr]bool
	resolver map[netip.Addr]bool
}

// newGuard looks at the machine. What cannot be seen is not guarded, and said.
func (a *Agent) newGuard() *guard {
	g := &guard{allowed: a.config().VIPNetworks, own: map[netip.Addr]bool{}, resolver: resolvers("/etc/resolv.conf")}
	n := a.network.Network()
	for _, addr := range n.Addrs {
		// One without a network may be a VIP of a balancer that runs here, too.
		if l, ok := n.Link(addr.Link); ok && l.Name != "lo" && !addr.Prefix.IsSingleIP() {
			g.own[addr.Prefix.Addr().Unmap()] = true
			g.networks = append(g.networks, addr.Prefix)
		}
	}
	var err error
	if g.gateways, err = hostnet.Gateways(); err != nil {
		a.log.Warn("gateways are not guarded against being VIPs", "err", err)
	}
	return g
}

// refuses returns why a VIP may not be put on lo, nil if it may.
func (g *guard) refuses(vip netip.Addr) error {
	special := core.Special(vip)
	switch {
	case special != "" || vip.Zone() != "":
		return fmt.Errorf("vip %v is %s: no client gets there", vip, cmp.Or(special, "an address of one link"))
	case g.broadcasts(vip):
		return fmt.Errorf("vip %v is the broadcast address of a network of this machine's", vip)
	case len(g.allowed) > 0 && !slices.ContainsFunc(g.allowed, func(p netip.Prefix) bool { return p.Contains(vip) }):
		return fmt.Errorf("vip %v is in none of this agent's vip_networks %v", vip, g.allowed)
	case g.own[vip]:
		return fmt.Errorf("vip %v is an address of a link of this machine's", vip)
	case g.gateways[vip]:
		return fmt.Errorf("vip %v is a gateway of this machine's routes", vip)
	case g.resolver[vip]:
		return fmt.Errorf("vip %v is a resolver of this machine's (/etc/resolv.conf)", vip)
	}
	return nil
}

// broadcasts reports whether an address is the broadcast address of a connected network.
func (g *guard) broadcasts(vip netip.Addr) bool {
	return slices.ContainsFunc(g.networks, func(p netip.Prefix) bool {
		return vip.Is4() && p.Bits() < 31 && p.Contains(vip) && !p.Contains(vip.Next())
	})
}

// resolvers returns the name servers of a resolv.conf(5), but those on this machine.
func resolvers(file string) map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	f, err := os.Open(file)
	if err != nil {
		return out
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(words[1]); err == nil && !a.IsLoopback() {
			out[a.WithZone("").Unmap()] = true
		}
	}
	return out
}

// admit returns the VIPs that may be put on lo, and why others may not.
func (g *guard) admit(vips []netip.Addr) (admitted []netip.Addr, refused map[netip.Addr]string) {
	refused = map[netip.Addr]string{}
	admitted = slices.DeleteFunc(slices.Clone(vips), func(vip netip.Addr) bool {
		err := g.refuses(vip)
		if err != nil {
			refused[vip] = err.Error()
		}
		return err != nil
	})
	return admitted, refused
}

// defaultGuardEvery is how often the machine's resolvers and gateways are looked at, of which
// nobody tells.
const defaultGuardEvery = 10 * time.Second

// lookGuarded has VIPs taken off lo that the machine needs itself by now, and put on it
// again.
func (a *Agent) lookGuarded(ctx context.Context) error {
	every := time.NewTicker(a.guardEvery)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
			a.store.refresh()
		}
	}
}

// maxRefused vips are named in the log when an offer has more that are refused.
const maxRefused = 16

// guarded takes note of what the machine does not get of an offer: the services there
// are down here. What it needs changes while it runs.
func (a *Agent) guarded(was, now map[netip.Addr]string) {
	more := 0
	for vip, why := range now {
		switch {
		case was[vip] == why:
		case more < maxRefused:
			more++
			a.log.Warn("vip refused: its services are down here", "why", why)
		default:
			more++
		}
	}
	if more > maxRefused {
		a.log.Warn("more vips refused", "more", more-maxRefused)
	}
	var free []netip.Addr
	for vip := range was {
		if now[vip] == "" {
			free = append(free, vip)
		}
	}
	if len(free) > 0 {
		slices.SortFunc(free, netip.Addr.Compare)
		a.log.Info("vips are refused no more", "vips", few(free))
	}
	signal(a.judged)
}

// judged returns a channel that holds one when the machine may get other VIPs of the
// offer; nil until it is set up, so that what is judged meanwhile is seen then.
func (s *session) judged() <-chan struct{} {
	if !s.fit || s.setting != nil {
		return nil
	}
	return s.a.judged
}

// rejudged goes by what the machine gets of the offer now.
func (s *session) rejudged() error {
	if _, refused := s.a.guards().admit(s.vips()); maps.Equal(refused, s.refused) {
		return nil
	}
	return s.setUp()
}
