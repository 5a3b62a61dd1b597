package hostnet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// localTimeout is how long the kernel may take to make an IPv6 address local.
const localTimeout = 2 * time.Second

// awaitLocal waits until packets to the addresses are for this machine. An IPv6
// address is there at once, but its local route comes from a work queue
// (net/ipv6/addrconf.c, addrconf_dad_work); until then packets to it are
// answered with "no route".
func (n *network) awaitLocal(ctx context.Context, addrs []Addr) error {
	ctx, cancel := context.WithTimeout(ctx, localTimeout)
	defer cancel()
	for _, a := range addrs {
		ip := a.Prefix.Addr().Unmap()
		l, ok := n.links[a.Link]
		if ip.Is4() || !ok || l.Attrs().Flags&net.FlagUp == 0 {
			continue // a link that is down has no routes
		}
		for !isLocal(ip) {
			if now, err := readNetwork(); err == nil && now.lacks([]Addr{a}) != nil {
				return fmt.Errorf("address %v: somebody took it away as it was added", a)
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("address %v: not local after %s: %w", a, localTimeout, ctx.Err())
			case <-time.After(time.Millisecond):
			}
		}
	}
	return nil
}

// isLocal reports whether the kernel delivers packets to an address here.
func isLocal(ip netip.Addr) bool {
	routes, err := netlink.RouteGet(ip.AsSlice())
	return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL
}
