package topology

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/caplance/caplance/core/nettest/slow"
)

// runningTimeout is how long a link may take to carry packets, on a busy
// machine.
var runningTimeout = slow.Time(5 * time.Second)

// awaitRunning waits until a link carries packets and its networks are
// reachable: the kernel notices a carrier a moment after it is there, and only
// then is IPv6 ready.
func (h *Host) awaitRunning(link string, addrs []netip.Prefix) error {
	return h.Do(func() error {
		end := time.Now().Add(runningTimeout)
		l, err := netlink.LinkByName(link)
		for ; err == nil && l.Attrs().OperState != netlink.OperUp; l, err = netlink.LinkByName(link) {
			if time.Now().After(end) {
				return fmt.Errorf("link %s: %s after %s", link, l.Attrs().OperState, runningTimeout)
			}
			<-time.After(time.Millisecond)
		}
		if err != nil {
			return fmt.Errorf("link %s: %w", link, err)
		}
		for _, a := range addrs {
			if a.IsSingleIP() {
				continue
			}
			for !reaches(a, l.Attrs().Index) {
				if time.Now().After(end) {
					return fmt.Errorf("link %s: %v is not reachable after %s", link, a.Masked(), runningTimeout)
				}
				<-time.After(time.Millisecond)
			}
		}
		return nil
	})
}

// reaches reports whether the route to a network goes by a link.
func reaches(network netip.Prefix, index int) bool {
	neighbour := network.Addr().Next()
	if !network.Contains(neighbour) {
		neighbour = network.Addr().Prev()
	}
	routes, err := netlink.RouteGet(net.IP(neighbour.AsSlice()))
	return err == nil && len(routes) > 0 && routes[0].LinkIndex == index
}
