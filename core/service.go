// Package core holds the domain types of the balancer: services, backends,
// pools, flows and the consistent lookup table. It does no I/O, starts no
// goroutine and imports no other package of Caplance; every other package speaks
// in its terms.
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

// Contains reports whether port lies in the range.
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
	ID     ServiceID
	Name   string
	VIP    netip.Addr
	Protos []uint8     // ProtoTCP, ProtoUDP
	Ports  []PortRange // sorted, disjoint, never empty
	Policy string      // bundled name or path of a .wasm file
	Config []byte      // policy_config as JSON, nil when there is none
	Mode   Mode
	Shadow string // a policy that is asked too, its answers only counted; "" for none
	Seed   uint64 // key of the 5-tuple hash

	// Upcalls is how many new flows a second the policy is asked about when
	// flows are forwarded in the kernel; the lookup table places the others. 0 is all.
	Upcalls int

	// Panic is the share of backends, percent, below which their health is ignored: most
	// checks fail together when the checks are wrong. 0: never.
	Panic int
	// MinBackends is how many have to take new flows for the service to be well; its
	// VIP is withdrawn from its link while they are fewer.
	MinBackends int
	Expected    []string // backends that should be registered

	Allow, Deny         []netip.Prefix // of clients, as the configuration lists them
	AllowFile, DenyFile ClientFile     // more of them
	Clients             *Clients       // what these say; nil: all clients are taken

	// NewFlows is how many new flows a second each source may begin, a prefix of so many
	// bits of clients' addresses; others are dropped. 0 is all.
	NewFlows                     int
	SourcePrefix4, SourcePrefix6 int

	SlowStart time.Duration // in which a new backend comes to its full share

	Timeouts Timeouts // of its flows; zero: the settings'
	UDP      UDPMode  // what of UDP is scheduled

	Echo     Echo     // when the VIP answers to pings; all services of a VIP agree
	Unserved Unserved // what a client hears while no backend is eligible

	Expired ExpiredFlows // what the client of an idle flow hears when it is forgotten

	Removed RemovedFlows // what becomes of its flows when the configuration drops it
	Leaving bool         // the configuration has dropped it: established flows only
}

// RemovedFlows says how the flows of a removed service end.
type RemovedFlows uint8

// The ways.
const (
	DrainRemoved RemovedFlows = iota // by themselves: the VIP stays until the last one is over
	ResetRemoved                     // at once: the host answers their packets with resets
)

// ParseRemovedFlows reads a way's name.
func ParseRemovedFlows(s string) (RemovedFlows, error) {
	switch s {
	case "drain":
		return DrainRemoved, nil
	case "reset":
		return ResetRemoved, nil
	}
	return 0, fmt.Errorf("%q must be drain or reset", s)
}

func (r RemovedFlows) String() string {
	if r == ResetRemoved {
		return "reset"
	}
	return "drain"
}

// UDPMode says what of UDP is scheduled.
type UDPMode uint8

// The modes.
const (
	UDPFlow     UDPMode = iota // all datagrams of a socket go to one backend
	UDPDatagram                // each by itself, without an entry in a flow table
)

// ParseUDPMode reads a mode's name.
func ParseUDPMode(s string) (UDPMode, error) {
	switch s {
	case "flow":
		return UDPFlow, nil
	case "datagram":
		return UDPDatagram, nil
	}
	return 0, fmt.Errorf("%q must be flow or datagram", s)
}

func (m UDPMode) String() string {
	if m == UDPDatagram {
		return "datagram"
	}
	return "flow"
}

// Alone reports whether each packet of a protocol is scheduled by itself.
func (s *Service) Alone(proto uint8) bool { return s.UDP == UDPDatagram && proto == ProtoUDP }

// Echo says when a VIP answers to ICMP echo requests (RFC 792; RFC 4443, §4).
type Echo uint8

// The ways.
const (
	EchoAlways   Echo = iota
	EchoNever         // requests are dropped
	EchoBackends      // while one of its services has an eligible backend
)

// ParseEcho reads a way's name.
func ParseEcho(s string) (Echo, error) {
	for _, e := range []Echo{EchoAlways, EchoNever, EchoBackends} {
		if s == e.String() {
			return e, nil
		}
	}
	return 0, fmt.Errorf("%q must be always, never or backends", s)
}

func (e Echo) String() string {
	return [...]string{"always", "never", "backends"}[min(e, EchoBackends)]
}

// Unserved says how new flows end of a service without an eligible backend.
type Unserved uint8

// The ways.
const (
	ResetUnserved Unserved = iota // at once: by a TCP reset, or ICMP port unreachable
	DropUnserved                  // by the client's patience
)

// ParseUnserved reads a way's name.
func ParseUnserved(s string) (Unserved, error) {
	switch s {
	case "reset":
		return ResetUnserved, nil
	case "drop":
		return DropUnserved, nil
	}
	return 0, fmt.Errorf("%q must be reset or drop", s)
}

func (u Unserved) String() string {
	if u == DropUnserved {
		return "drop"
	}
	return "reset"
}

// ExpiredFlows says how idle TCP flows end that are forgotten.
type ExpiredFlows uint8

// The ways.
const (
	ForgetExpired ExpiredFlows = iota // silently: the client's next packet is placed anew
	ResetExpired                      // the client gets a reset
)

// ParseExpiredFlows reads a way's name.
func ParseExpiredFlows(s string) (ExpiredFlows, error) {
	switch s {
	case "forget":
		return ForgetExpired, nil
	case "reset":
		return ResetExpired, nil
	}
	return 0, fmt.Errorf("%q must be forget or reset", s)
}

func (e ExpiredFlows) String() string {
	if e == ResetExpired {
		return "reset"
	}
	return "forget"
}

// DatapathType is how established flows are forwarded.
type DatapathType string

// The types.
const (
	Auto      DatapathType = "auto"      // tc where this kernel has it, else userspace
	XDP       DatapathType = "xdp"       // BPF in the links' drivers, and tc for what that leaves
	TC        DatapathType = "tc"        // BPF at the links' ingress
	Userspace DatapathType = "userspace" // every packet by NFQUEUE
)

// ParseDatapathType reads a type's name.
func ParseDatapathType(s string) (DatapathType, error) {
	switch t := DatapathType(s); t {
	case Auto, XDP, TC, Userspace:
		return t, nil
	}
	return "", fmt.Errorf("%q is not a datapath type (auto, tc, xdp, userspace)", s)
}

// FullRamp is the ramp of a backend that is past its slow start.
const FullRamp = 1000

// Ramp returns how much of its share a backend of this age gets, per mille: it
// grows evenly from a tenth to all.
func (s *Service) Ramp(age time.Duration) uint32 {
	if s.SlowStart <= 0 || age >= s.SlowStart { // the clock may have been set back
		return FullRamp
	}
	return uint32(max(FullRamp/10, int64(FullRamp*age/s.SlowStart)))
}

// Matches reports whether the service balances this protocol and port of its VIP.
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

// ProtoName returns "tcp", "udp", or the protocol's number.
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
