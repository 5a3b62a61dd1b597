// Package netmon observes the network of one namespace by rtnetlink: links,
// addresses, neighbours and routes. It is told of changes by the kernel, and looks
// once in a while all the same.
//
//	m, err := netmon.Open(log)
//	defer m.Close()
//	go m.Run(ctx)
//	for {
//		changed := m.Changed() // before the look
//		use(m.Network(), m.Paths())
//		<-changed
//	}
package netmon

import (
	"net"
	"net/netip"
	"slices"
)

// MAC is an Ethernet address, zero when there is none or it is not known.
type MAC [6]byte

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// Link is a network interface.
type Link struct {
	Index    int
	Name     string
	MTU      int    // bytes of an IP packet
	MAC      MAC    // zero on links without (lo, tunnels)
	Up       bool   // administratively (IFF_UP)
	Running  bool   // operational (IFF_RUNNING): has a carrier
	Type     string // of rtnetlink: "device", "veth", "bond", "vlan", …
	Loopback bool
	Ethernet bool   // ARPHRD_ETHER
	Bare     bool   // packets have no header of the link's: TUN, WireGuard, IPIP, GRE, PPP
	Epoch    uint64 // raised whenever the link comes to run
}

// Addr is an address of a link.
type Addr struct {
	Link   int          // index
	Prefix netip.Prefix // the address and its network's length
}

// Network is the links and addresses at one moment. It is never changed.
type Network struct {
	Links []Link // by index
	Addrs []Addr // by link, then address
}

// Link returns the link with an index.
func (n *Network) Link(index int) (Link, bool) {
	i, ok := slices.BinarySearchFunc(n.Links, index, func(l Link, index int) int { return l.Index - index })
	if !ok {
		return Link{}, false
	}
	return n.Links[i], true
}

// LinkByName returns the link of a name.
func (n *Network) LinkByName(name string) (Link, bool) {
	i := slices.IndexFunc(n.Links, func(l Link) bool { return l.Name == name })
	if i < 0 {
		return Link{}, false
	}
	return n.Links[i], true
}

// Has reports whether the machine has an address.
func (n *Network) Has(a netip.Addr) bool {
	return slices.ContainsFunc(n.Addrs, func(have Addr) bool { return have.Prefix.Addr() == a.Unmap() })
}

// Connected returns the networks that an address of the machine is directly
// connected to; those of every address for an unspecified one.
func (n *Network) Connected(listen netip.Addr) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range n.Addrs {
		if net := a.Prefix.Masked(); (listen.IsUnspecified() || a.Prefix.Addr() == listen.Unmap()) && !slices.Contains(out, net) {
			out = append(out, net)
		}
	}
	return out
}

// LinkOf returns the link in whose network a VIP lies, so that the machine
// answers ARP and neighbor discovery for it there. ok is false when there is
// none: the link is then lo, and a router has to send the VIP's packets here.
func (n *Network) LinkOf(vip netip.Addr) (link Link, ok bool) {
	vip = vip.Unmap()
	best := -1
	for i, a := range n.Addrs {
		if a.Prefix.Addr() == vip || a.Prefix.IsSingleIP() || !a.Prefix.Contains(vip) {
			continue
		}
		if best < 0 || a.Prefix.Bits() > n.Addrs[best].Prefix.Bits() {
			best = i
		}
	}
	if best >= 0 {
		return n.Link(n.Addrs[best].Link)
	}
	link, _ = n.LinkByName("lo")
	return link, false
}

// AgentDevice is the name of the agent's TUN device.
const AgentDevice = "caplance0"

// Facing returns the links that clients may come in by: Ethernet and bare ones
// that have an address other than a link-local one of IPv6. What an agent on this
// machine has taken out of a tunnel has come in already.
func (n *Network) Facing() []Link {
	var out []Link
	for _, l := range n.Links {
		has := func(a Addr) bool {
			return a.Link == l.Index && !(a.Prefix.Addr().Is6() && a.Prefix.Addr().IsLinkLocalUnicast())
		}
		if (l.Ethernet || l.Bare) && l.Name != AgentDevice && slices.ContainsFunc(n.Addrs, has) {
			out = append(out, l)
		}
	}
	return out
}

func (n *Network) equal(o *Network) bool {
	return slices.Equal(n.Links, o.Links) && slices.Equal(n.Addrs, o.Addrs)
}
