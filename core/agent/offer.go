package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/protocol"
)

// minMTU is the least that IPv4 demands of every path (RFC 791 §3.2).
const minMTU = 576

// offer is what the balancer has the agent set up. REGISTERED brings all of it,
// HEALTHACK what has changed.
type offer struct {
	vips      []netip.Addr  // nil: not named, by a first-generation balancer
	balancers []netip.Addr  // nil: not named
	mtu       int           // bytes of a client's packet; 0: not named
	direct    bool          // no packet comes through the tunnel
	lease     time.Duration // 0: not named
	services  []*core.Service
	checks    bool   // services are named
	number    uint64 // 0: the balancer does not number its offers
}

// changes reports whether the options of an answer belong to an offer.
func (o offer) changes(options map[string]string) bool {
	for _, key := range []string{"vips", "mtu", "mode", "balancers", "lease", "serves"} {
		if _, ok := options[key]; ok {
			return true
		}
	}
	return false
}

// with returns o after the options of an answer.
func (o offer) with(options map[string]string) (_ offer, err error) {
	if list, ok := options["vips"]; ok {
		if o.vips, err = addrs(list); err != nil {
			return o, err
		}
	}
	if list, ok := options["balancers"]; ok {
		if o.balancers, err = addrs(list); err != nil {
			return o, err
		}
	}
	if text, ok := options["mtu"]; ok {
		o.mtu, err = strconv.Atoi(text)
		if text != "" && (err != nil || o.mtu < minMTU || o.mtu > 1<<16) {
			return o, fmt.Errorf("mtu %q is not between %d and %d", text, minMTU, 1<<16)
		}
	}
	if mode, ok := options["mode"]; ok {
		o.direct = mode == core.ModeDirect.String()
	}
	if text, ok := options["lease"]; ok {
		ms, err := strconv.ParseUint(text, 10, 31)
		if err != nil || ms == 0 {
			return o, fmt.Errorf("lease %q is not a number of milliseconds", text)
		}
		o.lease = time.Duration(ms) * time.Millisecond
	}
	if list, ok := options["serves"]; ok {
		o.checks = true
		if o.services, err = protocol.ParseServing(list); err != nil {
			return o, err
		}
	}
	o.number = offerNumber(options, o.number)
	return o, nil
}

// addrs reads a list, which is not nil when it is empty.
func addrs(list string) ([]netip.Addr, error) {
	out := []netip.Addr{}
	if list == "" {
		return out, nil
	}
	for word := range strings.SplitSeq(list, ",") {
		a, err := netip.ParseAddr(word)
		if err != nil {
			return nil, err
		}
		out = append(out, a.Unmap())
	}
	return out, nil
}

// accept makes the offer of an answer, on top of another one, the session's and
// has it set up.
func (s *session) accept(base offer, reply protocol.Reply) error {
	o, err := base.with(reply.Options)
	if err != nil {
		return fmt.Errorf("balancer %s: %s: %w", s.peer, reply.Verb, err)
	}
	if o.lease != s.offer.lease {
		defer s.pace()
	}
	s.offer = o
	return s.setUp()
}

// vips returns those that the offer names, or the configuration where it names none.
func (s *session) vips() []netip.Addr {
	if s.offer.vips == nil {
		return s.a.config().VIPs
	}
	return s.offer.vips
}

// setUp makes the machine serve what is offered, by the end of s.setting.
func (s *session) setUp() error {
	vips := s.vips()
	if len(vips) == 0 {
		s.a.log.Warn("balancer names no VIPs: the agent joins none of its services, or it is an old one and vips must be set")
	}
	for _, own := range []netip.Addr{s.peer, s.a.dataIP} {
		if slices.Contains(vips, own) {
			return fmt.Errorf("balancer %s: vip %s is an address of the balancer or the data IP: on lo it would end the session (give the service another vip)", s.peer, own)
		}
	}
	admitted, refused := s.a.guards().admit(vips)
	s.refused = refused
	there := map[string]bool{}
	for _, vip := range admitted {
		there[vip.String()] = true
	}
	s.forgetServices(there)
	balancers := s.allow(admitted, s.offer.balancers)
	s.settle(served{heard: true, peer: s.peer, vips: vips, balancers: balancers, mtu: s.offer.mtu, direct: s.offer.direct})
	return nil
}
