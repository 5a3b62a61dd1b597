package netmon

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	nl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/rtnl"
)

// unusable are the states of a neighbour whose MAC is not to be relied on.
const unusable = netlink.NUD_INCOMPLETE | netlink.NUD_FAILED

// bare are the types of links (linux/if_arp.h) that show programs packets from
// the IP header on.
var bare = map[string]bool{"none": true, "rawip": true, "ppp": true, "ipip": true, "tunnel6": true, "sit": true, "gre": true, "gre6": true}

// table is what the kernel has told. It belongs to one goroutine at a time.
type table struct {
	links  map[int]Link
	addrs  map[Addr]bool
	macs   map[hop]MAC
	epochs map[int]uint64
}

// hop is a neighbour: an address on a link.
type hop struct {
	link int
	addr netip.Addr
}

// stale is what is out of date.
type stale struct {
	all     bool // events were lost: everything
	network bool
	paths   bool // routes, or what they depend on
	watched bool // the addresses whose paths are kept
	macs    bool
}

func (s stale) any() bool { return s != stale{} }

func (s stale) or(o stale) stale {
	return stale{s.all || o.all, s.network || o.network, s.paths || o.paths, s.watched || o.watched, s.macs || o.macs}
}

// read dumps everything. What the kernel tells meanwhile comes as events
// afterwards.
func (t *table) read(h *netlink.Handle) error {
	links, err := rtnl.Dump(h.LinkList)
	if err != nil {
		return fmt.Errorf("network links: %w", err)
	}
	addrs, err := rtnl.Dump(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("network addresses: %w", err)
	}
	neighbours, err := rtnl.Dump(func() ([]netlink.Neigh, error) { return h.NeighList(0, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("network neighbours: %w", err)
	}
	old := t.links
	t.links, t.addrs, t.macs = map[int]Link{}, map[Addr]bool{}, map[hop]MAC{}
	for _, l := range links {
		t.setLink(l, old[l.Attrs().Index])
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			bits, _ := a.Mask.Size()
			t.addrs[Addr{a.LinkIndex, netip.PrefixFrom(ip.Unmap(), bits)}] = true
		}
	}
	for i := range neighbours {
		t.setNeighbour(&neighbours[i], false)
	}
	return nil
}

// setLink puts a link in; was is what was known of it.
func (t *table) setLink(l netlink.Link, was Link) {
	a := l.Attrs()
	link := Link{
		Index: a.Index, Name: a.Name, MTU: a.MTU, Type: l.Type(),
		Up: a.RawFlags&unix.IFF_UP != 0, Running: a.RawFlags&unix.IFF_RUNNING != 0,
		Loopback: a.RawFlags&unix.IFF_LOOPBACK != 0, Ethernet: a.EncapType == "ether", Bare: bare[a.EncapType],
	}
	if len(a.HardwareAddr) == len(link.MAC) && !link.Loopback {
		link.MAC = MAC(a.HardwareAddr)
	}
	if link.Running && !was.Running {
		t.epochs[link.Index]++
	}
	link.Epoch = t.epochs[link.Index]
	t.links[link.Index] = link
}

func (t *table) setNeighbour(n *netlink.Neigh, gone bool) (changed bool) {
	ip, ok := netip.AddrFromSlice(n.IP)
	if !ok || n.Flags&netlink.NTF_PROXY != 0 || n.Family != unix.AF_INET && n.Family != unix.AF_INET6 {
		return false
	}
	key := hop{n.LinkIndex, ip.Unmap()}
	was, had := t.macs[key]
	if gone || n.State == netlink.NUD_NONE || n.State&unusable != 0 || len(n.HardwareAddr) != len(was) {
		delete(t.macs, key)
		return had
	}
	t.macs[key] = MAC(n.HardwareAddr)
	return t.macs[key] != was
}

// apply takes one event and returns what is out of date by it.
func (t *table) apply(m nl.Message) (stale, error) {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return t.link(m)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return t.addr(m)
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		n, err := netlink.NeighDeserialize(m.Data)
		if err != nil {
			return stale{}, fmt.Errorf("neighbour event: %w", err)
		}
		return stale{macs: t.setNeighbour(n, m.Header.Type == unix.RTM_DELNEIGH)}, nil
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE, unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return stale{paths: true}, nil
	}
	return stale{}, nil
}

// link takes a link event. A bridge tells of its ports in the same messages.
func (t *table) link(m nl.Message) (stale, error) {
	if len(m.Data) < unix.SizeofIfInfomsg || m.Data[0] != unix.AF_UNSPEC {
		return stale{}, nil
	}
	l, err := netlink.LinkDeserialize(&unix.NlMsghdr{Type: uint16(m.Header.Type)}, m.Data)
	if err != nil {
		return stale{}, fmt.Errorf("link event: %w", err)
	}
	index := l.Attrs().Index
	was := t.links[index]
	if m.Header.Type == unix.RTM_DELLINK {
		delete(t.links, index)
		maps.DeleteFunc(t.addrs, func(a Addr, _ bool) bool { return a.Link == index })
		maps.DeleteFunc(t.macs, func(h hop, _ MAC) bool { return h.link == index })
		return stale{network: true, paths: true}, nil
	}
	t.setLink(l, was)
	changed := t.links[index] != was
	return stale{network: changed, paths: changed}, nil
}

// addr takes an address event: struct ifaddrmsg (linux/if_addr.h) and its
// attributes. On a point-to-point link IFA_ADDRESS is the peer's.
func (t *table) addr(m nl.Message) (stale, error) {
	if len(m.Data) < unix.SizeofIfAddrmsg {
		return stale{}, fmt.Errorf("address event: %d bytes", len(m.Data))
	}
	bits, index := int(m.Data[1]), int(nativeUint32(m.Data[4:]))
	ad, err := nl.NewAttributeDecoder(m.Data[unix.SizeofIfAddrmsg:])
	if err != nil {
		return stale{}, fmt.Errorf("address event: %w", err)
	}
	var address, local netip.Addr
	for ad.Next() {
		switch ad.Type() {
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(ad.Bytes())
		}
	}
	if local.IsValid() {
		address = local
	}
	if err := ad.Err(); err != nil || !address.IsValid() {
		return stale{}, err
	}
	a := Addr{index, netip.PrefixFrom(address.Unmap(), bits)}
	had := t.addrs[a]
	if m.Header.Type == unix.RTM_DELADDR {
		delete(t.addrs, a)
	} else if t.addrs[a] = true; had { // a lifetime, a flag
		return stale{}, nil
	}
	return stale{network: true, paths: true}, nil
}

// snapshot returns the links and addresses.
func (t *table) snapshot() *Network {
	n := &Network{}
	for _, i := range slices.Sorted(maps.Keys(t.links)) {
		n.Links = append(n.Links, t.links[i])
	}
	n.Addrs = slices.SortedFunc(maps.Keys(t.addrs), func(a, b Addr) int {
		return cmp.Or(a.Link-b.Link, a.Prefix.Addr().Compare(b.Prefix.Addr()), a.Prefix.Bits()-b.Prefix.Bits())
	})
	return n
}
