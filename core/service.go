// Package core holds the domain types of the balancer: services, backends,
// pools, flows and the consistent lookup table. It does no I/O, starts no
// goroutine and imports nothing of ours; every other package speaks in its
// terms.
//
//	b := core.NewPoolBuilder(svc)
//	pool := b.Build(backends, nil) // immutable: publish it behind an atomic.Pointer
//	i := pool.Lookup.At(key.Hash(svc.Seed))
package core

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// PortRange is an inclusive range of ports, 1 ≤ First ≤ Last.
type PortRange struct{ First, Last uint16 }

// AllPorts is the range of a service that names no ports.
var AllPorts = PortRange{1, 65535}

// Contains says whether port lies in the range.
func (r PortRange) Contains(port uint16) bool { return r.First <= port && port <= r.Last }

func (r PortRange) String() string {
	if r.First == r.Last {
		return fmt.Sprint(r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Service is a VIP with its protocols and ports, and how its flows are
// scheduled and forwarded. It is immutable once the configuration is read.
type Service struct {
	Index  uint16 // position in the configuration
	Name   string
	VIP    netip.Addr
	Protos []uint8     // ProtoTCP, ProtoUDP
	Ports  []PortRange // sorted, disjoint, never empty
	Policy string      // bundled name or path of a .wasm file
	Config []byte      // policy_config as JSON, nil when there is none
	Mode   Mode
	Shadow string // a policy that is asked too, its answers only counted; "" for none
	Seed   uint64 // key of the 5-tuple hash

	// Upcalls is how many new flows a second the policy is asked about on the
	// kernel rungs; the lookup table places the others. 0 is all.
	Upcalls int

	SlowStart time.Duration // in which a new backend comes to its full share
}

// FullRamp is the ramp of a backend that is past its slow start.
const FullRamp = 1000

// Ramp is how much of its share a backend of this age gets, per mille: it
// grows evenly from a tenth to all.
func (s *Service) Ramp(age time.Duration) uint32 {
	if age >= s.SlowStart {
		return FullRamp
	}
	return uint32(max(FullRamp/10, int64(FullRamp*age/s.SlowStart)))
}

// Matches says whether the service balances this protocol and port of its VIP.
func (s *Service) Matches(proto uint8, port uint16) bool {
	for _, p := range s.Protos {
		if p != proto {
			continue
		}
		for _, r := range s.Ports {
			if r.Contains(port) {
				return true
			}
		}
	}
	return false
}

// Protocol names the service's protocols as the configuration does.
func (s *Service) Protocol() string {
	if len(s.Protos) == 2 {
		return "both"
	}
	return ProtoName(s.Protos[0])
}

// PortList renders the ports as the configuration would: "80,443,8000-8080",
// or "all".
func (s *Service) PortList() string {
	if len(s.Ports) == 1 && s.Ports[0] == AllPorts {
		return "all"
	}
	var b strings.Builder
	for i, r := range s.Ports {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(r.String())
	}
	return b.String()
}

// ProtoName is "tcp", "udp", or the protocol's number.
func ProtoName(p uint8) string {
	switch p {
	case ProtoTCP:
		return "tcp"
	case ProtoUDP:
		return "udp"
	}
	return fmt.Sprint(p)
}

// Mode is how a packet travels to its backend. The zero Mode is the service's
// for a backend, and ModeTunnel for a service.
type Mode uint8

const (
	// ModeTunnel carries the client's IP packet inside UDP to the backend's
	// agent, across routers.
	ModeTunnel Mode = iota + 1
	// ModeDirect sends the client's IP packet as it is to the backend's MAC: no
	// overhead, but both must be on one segment.
	ModeDirect
)

// ParseMode reads a mode's name.
func ParseMode(s string) (Mode, error) {
	switch s {
	case "tunnel":
		return ModeTunnel, nil
	case "direct":
		return ModeDirect, nil
	}
	return 0, fmt.Errorf("%q is not a mode (tunnel, direct)", s)
}

func (m Mode) String() string {
	if m == ModeDirect {
		return "direct"
	}
	return "tunnel"
}
