package netmon

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Path is how the kernel routes packets to an address.
type Path struct {
	Source  netip.Addr // address they leave from
	MTU     int        // bytes of an IP packet that fits
	Link    int        // index of the link they leave by
	LinkMAC MAC        // that link's; zero for links without
	NextHop netip.Addr // on that link: the address itself, or a router
	MAC     MAC        // the next hop's; zero when it is not known
	Bare    bool       // the link is bare: there are no MACs
}

// OnLink reports whether the address is on the link, not behind a router.
func (p Path) OnLink(addr netip.Addr) bool { return p.NextHop == addr.Unmap() }

// Watch sets the addresses whose paths are kept in Paths.
func (m *Monitor) Watch(addrs []netip.Addr) {
	m.mu.Lock()
	m.watched = slices.Clone(addrs)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Paths returns the paths to the watched addresses that there is a route to.
// The map is never changed.
func (m *Monitor) Paths() map[netip.Addr]Path { return *m.paths.Load() }

// Path returns the path to an address: the known one when it is watched, or
// else the kernel's answer, with a MAC only if the address is watched. It does
// I/O: never call it on the packet path.
func (m *Monitor) Path(addr netip.Addr) (Path, error) {
	if p, ok := m.Paths()[addr]; ok {
		return p, nil
	}
	return m.route(addr, m.Network())
}

// route asks the kernel's routing table. Its MTU is the link's or the route's, not
// what ICMP says of the way (RFC 1191, RFC 8201): anybody can forge that, since
// nothing in a datagram of a tunnel has to be guessed.
func (m *Monitor) route(addr netip.Addr, n *Network) (Path, error) {
	routes, err := m.handle.RouteGet(net.IP(addr.Unmap().AsSlice()))
	if err != nil {
		return Path{}, fmt.Errorf("route to %v: %w", addr, err)
	}
	if len(routes) == 0 {
		return Path{}, fmt.Errorf("route to %v: none", addr)
	}
	r := routes[0]
	link, ok := n.Link(r.LinkIndex)
	if !ok {
		return Path{}, fmt.Errorf("route to %v: link %d is gone", addr, r.LinkIndex)
	}
	p := Path{MTU: link.MTU, Link: link.Index, LinkMAC: link.MAC, NextHop: nextHop(&r, addr.Unmap()), Bare: link.Bare}
	if r.MTU > 0 && r.MTU < p.MTU {
		p.MTU = min(p.MTU, m.configuredMTU(addr, p.MTU))
	}
	if src, ok := netip.AddrFromSlice(r.Src); ok {
		p.Source = src.Unmap()
	}
	return p, nil
}

// configuredMTU returns the MTU of the route that an address is reached by, as it
// stands in the table (RTM_F_FIB_MATCH, Linux 4.13), or the link's.
func (m *Monitor) configuredMTU(addr netip.Addr, link int) int {
	routes, err := m.handle.RouteGetWithOptions(net.IP(addr.Unmap().AsSlice()), &netlink.RouteGetOptions{FIBMatch: true})
	if err != nil || len(routes) == 0 || routes[0].MTU == 0 {
		return link
	}
	return routes[0].MTU
}

// nextHop returns the router of a route, which may be of the other family (RFC
// 5549), or the address itself.
func nextHop(r *netlink.Route, addr netip.Addr) netip.Addr {
	if gw, ok := netip.AddrFromSlice(r.Gw); ok {
		return gw.Unmap()
	}
	if via, ok := r.Via.(*netlink.Via); ok {
		if gw, ok := netip.AddrFromSlice(via.Addr); ok {
			return gw.Unmap()
		}
	}
	return addr
}

// updatePaths brings the paths up to date, the routes only if they may have
// changed or are new, and reports whether one has changed.
func (m *Monitor) updatePaths(s stale) bool {
	was := m.Paths()
	var next map[netip.Addr]Path
	switch {
	case s.paths:
		next = m.routes(nil)
	case s.watched:
		next = m.routes(was)
	default:
		next = maps.Clone(was)
	}
	missing := false
	for addr, p := range next {
		p.MAC = m.table.macs[hop{p.Link, p.NextHop}]
		missing = missing || p.MAC == MAC{}
		next[addr] = p
	}
	if maps.Equal(was, next) {
		return false
	}
	m.paths.Store(&next)
	if missing {
		m.ask(false)
	}
	return true
}

// routes returns the paths to the watched addresses, those that are known as
// they are.
func (m *Monitor) routes(known map[netip.Addr]Path) map[netip.Addr]Path {
	m.mu.Lock()
	watched := m.watched
	m.mu.Unlock()
	out := make(map[netip.Addr]Path, len(watched))
	for _, addr := range watched {
		if p, ok := known[addr]; ok {
			out[addr] = p
			continue
		}
		p, err := m.route(addr, m.Network())
		if err != nil {
			m.log.Debug("no path", "err", err)
			continue
		}
		out[addr] = p
	}
	return out
}

// ask has the kernel find the MACs that are missing, or confirm all.
func (m *Monitor) ask(all bool) {
	asked := map[hop]bool{}
	for _, p := range m.Paths() {
		h := hop{p.Link, p.NextHop}
		if p.LinkMAC == (MAC{}) || asked[h] || p.MAC != (MAC{}) && !all {
			continue
		}
		asked[h] = true
		if err := m.askOne(h); err != nil {
			m.log.Debug("neighbour not asked", "err", err)
		}
	}
}

// askOne has the kernel find out, or confirm, a neighbour's MAC, as a packet to
// it would (NTF_USE, linux/neighbour.h).
func (m *Monitor) askOne(h hop) error {
	n := &netlink.Neigh{LinkIndex: h.link, IP: net.IP(h.addr.AsSlice()), Flags: netlink.NTF_USE, Family: unix.AF_INET}
	if h.addr.Is6() {
		n.Family = unix.AF_INET6
	}
	if err := m.handle.NeighSet(n); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("neighbour %v: %w", h.addr, err)
	}
	return nil
}
