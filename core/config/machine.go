package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Machine is what a configuration has to agree with on this machine.
type Machine struct {
	Links []string      // names of the network interfaces
	Addrs []MachineAddr // of all of them
	Left  []netip.Addr  // VIPs that a predecessor put there: not the machine's own
}

// MachineAddr is an address of a link.
type MachineAddr struct {
	Link   string
	Prefix netip.Prefix // the address and its network's length
}

// ThisMachine reads the links and addresses of the network namespace that the
// calling thread is in.
func ThisMachine() (m Machine, err error) {
	links, err := net.Interfaces()
	if err != nil {
		return Machine{}, fmt.Errorf("network links: %w", err)
	}
	for _, l := range links {
		m.Links = append(m.Links, l.Name)
		addrs, err := l.Addrs()
		if err != nil {
			return Machine{}, fmt.Errorf("network addresses of %s: %w", l.Name, err)
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				m.Addrs = append(m.Addrs, MachineAddr{l.Name, p})
			}
		}
	}
	return m, nil
}

// own returns the link that has an address as the machine's own: one with its
// network, or the only one of its family there, as clouds give. Others are VIPs
// that a predecessor or the operator put there, as are single ones on lo.
func (m *Machine) own(addr netip.Addr) (link string, ok bool) {
	if slices.Contains(m.Left, addr) {
		return "", false
	}
	for i, a := range m.Addrs {
		if a.Prefix.Addr().Unmap() == addr && (a.Link != "lo" && m.only(a) || !a.Prefix.IsSingleIP() && m.first(i)) {
			return a.Link, true
		}
	}
	return "", false
}

// only reports whether a link has no other address of an address' family, but
// for IPv6's link-local ones.
func (m *Machine) only(a MachineAddr) bool {
	return !slices.ContainsFunc(m.Addrs, func(b MachineAddr) bool {
		x, y := a.Prefix.Addr(), b.Prefix.Addr()
		return a.Link == b.Link && x != y && x.Is4() == y.Is4() && !y.IsLinkLocalUnicast()
	})
}

// first reports whether an address is the first that its link has in its
// network: the kernel lists an IPv4 network's primary address before the others
// that an operator added. IPv6 has no such order.
func (m *Machine) first(i int) bool {
	a := m.Addrs[i]
	others := m.Addrs[:i]
	if a.Prefix.Addr().Is6() {
		others = append(slices.Clone(others), m.Addrs[i+1:]...)
	}
	return !slices.ContainsFunc(others, func(b MachineAddr) bool {
		return a.Link == b.Link && a.Prefix.Masked() == b.Prefix.Masked()
	})
}

// broadcastOf returns the connected network that an address is the broadcast
// address of.
func (m *Machine) broadcastOf(addr netip.Addr) (network netip.Prefix, ok bool) {
	for _, a := range m.Addrs {
		p := a.Prefix
		if p.Addr().Is4() && p.Bits() < 31 && p.Contains(addr) && !p.Contains(addr.Next()) {
			return p.Masked(), true
		}
	}
	return netip.Prefix{}, false
}

// CheckMachine checks the configuration against this machine, before anything
// is changed. What cannot be right is an error, each finding an *Error. What may
// become right is a warning, an *Error, too: a link that is not there yet is
// used once it is there.
func (s *Server) CheckMachine(m Machine) (warnings []error, err error) {
	var errs []error
	for i, svc := range s.Services {
		key := fmt.Sprintf("service[%d].vip", i)
		if link, ok := m.own(svc.VIP); ok {
			errs = append(errs, s.doc.Errorf(key, "%v is this machine's own address on %s, which would be cut off "+
				"(give the service an address that no machine has)", svc.VIP, link))
		}
		if network, ok := m.broadcastOf(svc.VIP); ok {
			errs = append(errs, s.doc.Errorf(key, "%v is the broadcast address of %v (choose another one)", svc.VIP, network))
		}
	}
	for i := range s.Static {
		b := &s.Static[i].Backend
		if j := slices.IndexFunc(m.Addrs, func(a MachineAddr) bool { return a.Prefix.Addr().Unmap() == b.Addr }); j >= 0 {
			errs = append(errs, s.doc.Errorf(s.Static[i].Key+".address", "%v is this machine's own address on %s, and the packets of backend %s would stay here (a backend is another machine, or a network namespace with an address of its own)",
				b.Addr, m.Addrs[j].Link, b.Name))
		}
	}
	return s.missing(m), errors.Join(errs...)
}

// missing returns warnings of what this machine does not have now.
func (s *Server) missing(m Machine) (warnings []error) {
	warn := func(key, format string, args ...any) { warnings = append(warnings, s.doc.Errorf(key, format, args...)) }
	for i, link := range s.Datapath.Links {
		if !slices.Contains(m.Links, link) {
			warn(fmt.Sprintf("datapath.links[%d]", i), "link %q is not there; nothing comes in by it until it is (this machine has %s)",
				link, strings.Join(m.Links, ", "))
		}
	}
	metrics, _ := netip.ParseAddrPort(s.Metrics) // the zero value for none
	for _, l := range []struct {
		key string
		at  netip.Addr
	}{{"registry.listen", s.Registry.Listen.Addr()}, {"metrics", metrics.Addr()}} {
		if l.at.IsValid() && !l.at.IsUnspecified() && !m.has(l.at.Unmap().WithZone("")) {
			warn(l.key, "this machine does not have %v; the start fails until it does (ip address lists what it has)", l.at)
		}
	}
	return warnings
}

// has reports whether a link has an address; lo has every one of its networks.
func (m *Machine) has(addr netip.Addr) bool {
	return slices.ContainsFunc(m.Addrs, func(a MachineAddr) bool {
		return a.Prefix.Addr().Unmap() == addr || a.Link == "lo" && a.Prefix.Contains(addr)
	})
}
