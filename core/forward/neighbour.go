package forward

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// unusable are the states of a neighbour whose MAC is not to be relied on.
const unusable = netlink.NUD_INCOMPLETE | netlink.NUD_FAILED | netlink.NUD_NONE

// Neighbours are the MACs of the hosts on a link, as the kernel knows them.
func Neighbours(link int) (map[netip.Addr]MAC, error) {
	list, err := netlink.NeighList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("neighbours of link %d: %w", link, err)
	}
	out := map[netip.Addr]MAC{}
	for _, n := range list {
		addr, ok := netip.AddrFromSlice(n.IP)
		if ok && len(n.HardwareAddr) == 6 && n.State&unusable == 0 && n.State != 0 {
			out[addr.Unmap()] = MAC(n.HardwareAddr)
		}
	}
	return out, nil
}

// Ask has the kernel find out, or confirm, a neighbour's MAC, as a packet to it
// would (NTF_USE, linux/neighbour.h).
func Ask(link int, addr netip.Addr) error {
	n := &netlink.Neigh{LinkIndex: link, IP: net.IP(addr.AsSlice()), Flags: netlink.NTF_USE, Family: unix.AF_INET}
	if addr.Is6() {
		n.Family = unix.AF_INET6
	}
	if err := netlink.NeighSet(n); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("neighbour %v: %w", addr, err)
	}
	return nil
}
