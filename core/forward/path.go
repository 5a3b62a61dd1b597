package forward

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Path is how the kernel would route tunnel packets to a backend.
type Path struct {
	Source  netip.Addr // address they leave from
	MTU     int        // bytes of an inner packet that fit
	LinkMTU int        // bytes of a packet that fits without a tunnel
	Link    int        // index of the link they leave by
	LinkMAC MAC        // that link's; zero for links without
	NextHop netip.Addr // on that link: the backend itself, or a router
}

// OnLink says whether the backend at addr is on the link, not behind a router.
func (p Path) OnLink(addr netip.Addr) bool { return p.NextHop == addr }

// MAC is an Ethernet address, zero when it is not known.
type MAC [6]byte

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// PathTo asks the kernel's routing table, with what it has learned of path
// MTUs (RFC 1191). It does I/O: never call it on the packet path.
func PathTo(addr netip.Addr) (Path, error) {
	routes, err := netlink.RouteGet(net.IP(addr.AsSlice()))
	if err != nil {
		return Path{}, fmt.Errorf("route to %v: %w", addr, err)
	}
	if len(routes) == 0 {
		return Path{}, fmt.Errorf("route to %v: none", addr)
	}
	r := routes[0]
	link, err := netlink.LinkByIndex(r.LinkIndex)
	if err != nil {
		return Path{}, fmt.Errorf("route to %v: link %d: %w", addr, r.LinkIndex, err)
	}
	mtu := link.Attrs().MTU
	if r.MTU > 0 {
		mtu = min(mtu, r.MTU)
	}
	p := Path{MTU: mtu - Overhead(addr), LinkMTU: mtu, Link: r.LinkIndex, NextHop: addr}
	copy(p.LinkMAC[:], link.Attrs().HardwareAddr)
	src, _ := netip.AddrFromSlice(r.Src)
	p.Source = src.Unmap()
	if gw, ok := netip.AddrFromSlice(r.Gw); ok {
		p.NextHop = gw.Unmap()
	}
	return p, nil
}
