package hostnet

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/rtnl"
)

// AddAddr puts the address on the link. An address that the link already has,
// whatever its prefix length, is left as it is, now and at Close. IPv6
// addresses skip duplicate address detection, for several backends hold one
// VIP, and are deprecated (RFC 6724 rule 3), so that the machine does not talk
// from them of its own accord.
func (j *Journal) AddAddr(link string, p netip.Prefix) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return os.ErrClosed
	}
	n, err := readNetwork()
	if err != nil {
		return err
	}
	return j.addAddr(n, Addr{link, p})
}

// RemoveAddr takes an address off that AddAddr put there; any other stays.
func (j *Journal) RemoveAddr(link string, p netip.Prefix) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	i := j.find(change{Link: link, Addr: p.String()})
	if i < 0 {
		return nil
	}
	return j.takeBack(j.done[i])
}

// network is what the machine has now.
type network struct {
	links map[string]netlink.Link
	addrs map[int]map[netip.Addr]bool // of each link's index
}

func readNetwork() (*network, error) {
	links, err := rtnl.Dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("network links: %w", err)
	}
	addrs, err := rtnl.Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("network addresses: %w", err)
	}
	n := &network{links: map[string]netlink.Link{}, addrs: map[int]map[netip.Addr]bool{}}
	for _, l := range links {
		n.links[l.Attrs().Name], n.addrs[l.Attrs().Index] = l, map[netip.Addr]bool{}
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && n.addrs[a.LinkIndex] != nil {
			n.addrs[a.LinkIndex][ip.Unmap()] = true
		}
	}
	return n, nil
}

// addAddr adds an address that the link does not have. One that is ours keeps
// its line in the journal, unless the link has another name or index now.
func (j *Journal) addAddr(n *network, a Addr) error {
	l, ok := n.links[a.Link]
	if !ok {
		return fmt.Errorf("link %s: there is none of that name", a.Link)
	}
	c := change{Link: a.Link, Index: l.Attrs().Index, Addr: a.Prefix.String()}
	has, i := n.addrs[c.Index][a.Prefix.Addr().Unmap()], j.find(c)
	add := func() error {
		if has {
			return nil
		}
		return addTo(l, a.Prefix)
	}
	switch {
	case i < 0 && has: // somebody else's
		return nil
	case i < 0, j.done[i].Link != c.Link, j.done[i].Index != c.Index:
		return j.record(c, add)
	}
	return add()
}

func addTo(l netlink.Link, p netip.Prefix) error {
	err := netlink.AddrAdd(l, newAddr(p))
	name := l.Attrs().Name
	switch {
	case errors.Is(err, unix.EEXIST): // since the last look
		return nil
	case errors.Is(err, unix.EACCES) && p.Addr().Is6():
		return fmt.Errorf("address %s on %s: IPv6 is off there, set net.ipv6.conf.%[2]s.disable_ipv6=0: %w", p, name, err)
	case err != nil:
		return fmt.Errorf("address %s on %s: %w", p, name, err)
	}
	return nil
}

func newAddr(p netip.Prefix) *netlink.Addr {
	a := p.Addr().Unmap()
	out := &netlink.Addr{IPNet: &net.IPNet{
		IP:   a.AsSlice(),
		Mask: net.CIDRMask(p.Bits(), a.BitLen()),
	}}
	if a.Is6() {
		out.Flags = unix.IFA_F_NODAD
		out.ValidLft, out.PreferedLft = math.MaxUint32, 0 // forever, deprecated
	}
	return out
}

// removeAddr takes the address off again; an address or a link that is gone
// already is as good.
func removeAddr(c change) error {
	p, err := netip.ParsePrefix(c.Addr)
	if err != nil {
		return err
	}
	l, err := c.link()
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return err
	}
	err = netlink.AddrDel(l, newAddr(p))
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// link finds a link by its index, which a new name does not change; journals of
// the first edition have names only.
func (c change) link() (netlink.Link, error) {
	if c.Index != 0 {
		return netlink.LinkByIndex(c.Index)
	}
	return netlink.LinkByName(c.Link)
}
