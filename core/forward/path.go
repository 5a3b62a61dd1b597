package forward

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Path is how the kernel would route tunnel packets to a backend.
type Path struct {
	Source netip.Addr // address they leave from
	MTU    int        // bytes of an inner packet that fit
	Link   int        // index of the link they leave by
}

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
	src, _ := netip.AddrFromSlice(r.Src)
	return Path{Source: src.Unmap(), MTU: mtu - Overhead(addr), Link: r.LinkIndex}, nil
}
