package daemon

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// address is one address of this machine.
type address struct {
	link   string
	mtu    int
	prefix netip.Prefix
}

// addresses lists this machine's addresses.
func addresses() ([]address, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("network links: %w", err)
	}
	var out []address
	for _, l := range links {
		list, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("addresses of %s: %w", l.Attrs().Name, err)
		}
		for _, a := range list {
			ip, ok := netip.AddrFromSlice(a.IP)
			if !ok {
				continue
			}
			bits, _ := a.Mask.Size()
			out = append(out, address{l.Attrs().Name, l.Attrs().MTU, netip.PrefixFrom(ip.Unmap(), bits)})
		}
	}
	return out, nil
}

// connected are the networks that an address of ours is directly connected
// to; those of every address for an unspecified one.
func connected(all []address, listen netip.Addr) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range all {
		if listen.IsUnspecified() || a.prefix.Addr() == listen {
			out = append(out, a.prefix.Masked())
		}
	}
	return out
}

// linkOf is where a VIP belongs: the link whose network it lies in, so that
// the machine answers ARP and neighbour discovery for it there, else lo: a
// router has to send its packets here.
func linkOf(all []address, vip netip.Addr) (link string, mtu int) {
	for _, a := range all {
		if a.prefix.Addr() != vip && a.prefix.Bits() < vip.BitLen() && a.prefix.Contains(vip) {
			return a.link, a.mtu
		}
	}
	return "lo", 1500
}
