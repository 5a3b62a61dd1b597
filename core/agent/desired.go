package agent

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/caplance/caplance/core/hostnet"
	"github.com/caplance/caplance/core/ruleset"
)

// desired is what the machine is to be like. It is never changed; each target
// sees the part of it that its view returns.
type desired struct {
	revision  uint64
	heard     bool         // a balancer has said what to serve: the rest may go
	vips      []netip.Addr // of lo
	mtu       int          // of a client's packet on its way here, bytes
	balancers []netip.Addr // sources of tunnelled packets
	link      string       // that has the data IP; "": none ever had
}

// same reports whether two states differ in nothing but the revision.
func (d *desired) same(o *desired) bool {
	return d.heard == o.heard && d.mtu == o.mtu && d.link == o.link &&
		slices.Equal(d.vips, o.vips) && slices.Equal(d.balancers, o.balancers)
}

func revision(d *desired) uint64 { return d.revision }

// complete reports whether what the state does not have may be removed. Until a
// balancer has spoken, the VIPs of a killed predecessor stay, and with them its
// connections.
func complete(d *desired) bool { return d.heard }

// sysctls are what VIPs on lo need. arp_ignore 1: answer ARP for an address
// only on the interface that has it, so nobody is told where the VIP is.
// arp_announce 2: never ask from a VIP, which would tell it too.
var sysctls = map[string]string{
	"net/ipv4/conf/all/arp_ignore":   "1",
	"net/ipv4/conf/all/arp_announce": "2",
}

// host returns the view of the addresses and sysctls, those of the device included:
// they are watched like the others.
func host(d *desired) *hostnet.State {
	s := &hostnet.State{Sysctls: maps.Clone(sysctls)}
	maps.Copy(s.Sysctls, deviceSysctls)
	for _, vip := range d.vips {
		s.Addrs = append(s.Addrs, hostnet.Addr{Link: "lo", Prefix: netip.PrefixFrom(vip, vip.BitLen())})
	}
	return s
}

// clamp returns the view of the ruleset.
func clamp(d *desired) *ruleset.Clamp { return &ruleset.Clamp{VIPs: d.vips, MTU: d.mtu} }

// accepted is what the receiver takes out of the tunnel, and where.
type accepted struct {
	link            string
	vips, balancers []netip.Addr
}

// Equal reports whether two states ask for the same.
func (a *accepted) Equal(o *accepted) bool {
	return a.link == o.link && slices.Equal(a.vips, o.vips) && slices.Equal(a.balancers, o.balancers)
}

func accept(d *desired) *accepted { return &accepted{d.link, d.vips, d.balancers} }
