package sources

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/config"
)

// Refused returns why no agent's backend can have a name or a data IP. What is sent to
// an address of the balancer's own comes back to it, and circles if it is a VIP's packet.
func (s *Sources) Refused(name string, data netip.Addr) error {
	if _, static := slices.BinarySearchFunc(s.Server().Static, name, func(b config.StaticBackend, name string) int { return strings.Compare(b.Backend.Name, name) }); static {
		return fmt.Errorf("backend %s is in the balancer's configuration ([[service.backend]]), without an agent: take it out there, or take another name", name)
	}
	if is := core.Special(data); is != "" {
		return fmt.Errorf("data IP %s is %s: no packet of the balancer's gets there", data, is)
	}
	for _, svc := range s.Store.Snapshot().Services.List {
		if svc.VIP == data {
			return fmt.Errorf("data IP %s is the VIP of service %s: its packets come to the balancer", data, svc.Name)
		}
	}
	for _, a := range s.Net.Network().Addrs {
		if a.Prefix.Addr() == data {
			return fmt.Errorf("data IP %s is the balancer's own: an agent needs another machine, or a network namespace with an address of its own", data)
		}
		if a.Prefix.Contains(data) && isBroadcast(a.Prefix, data) {
			return fmt.Errorf("data IP %s is the broadcast address of %s", data, a.Prefix.Masked())
		}
	}
	return nil
}

// isBroadcast reports whether an address of an IPv4 network is the one for all
// in it (RFC 919); networks of two addresses have none (RFC 3021).
func isBroadcast(network netip.Prefix, a netip.Addr) bool {
	return a.Is4() && network.Bits() < 31 && !network.Contains(a.Next())
}
