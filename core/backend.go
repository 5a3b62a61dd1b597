package core

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Down says why a service does not work at a backend.
type Down struct{ Service, Why string }

// BackendState is how one backend is: the registry's view, or that with the
// operator's orders.
type BackendState uint8

// The states. Only Active backends get new flows. Established flows go on in
// every state but Paused, where packets are held back (dropped), until the
// backend leaves the registry.
const (
	Active      BackendState = iota
	Unhealthy                // it says that it, or what it serves, is not well
	Paused                   // registered, but no packet is forwarded to it
	Draining                 // established flows only
	Lost                     // its session broke; its agent may come back
	Unreachable              // its session is there, but packets do not arrive
)

// The states of backends that are in no pool, for those who look.
const (
	Drained  BackendState = iota + Unreachable + 1 // the operator's drain is over
	Disabled                                       // by the operator
	Absent                                         // not registered; the operator has orders for it
	Missing                                        // not registered; the configuration expects it
)

var stateNames = [...]string{"active", "unhealthy", "paused", "draining", "lost", "unreachable", "drained", "disabled", "absent", "missing"}

func (s BackendState) String() string { return stateNames[s] }

// MarshalText renders the state's name, for JSON.
func (s BackendState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a state's name.
func (s *BackendState) UnmarshalText(text []byte) error {
	i := slices.Index(stateNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("backend state %q is unknown", text)
	}
	*s = BackendState(i)
	return nil
}

// Backend is one registered backend. Values are immutable snapshots: the
// registry hands out a new one for every change.
type Backend struct {
	Name     string
	Addr     netip.Addr // data IP: where its packets are tunnelled to
	Services []string   // the services it joins; nil joins every one
	Weight   uint32     // share of new flows relative to its peers; 0 takes none
	State    BackendState
	Since    time.Time // registration

	Reason string  // why it is not Active, "" where its agent asked for that
	Narrow string  // what is wrong with the path of long packets, "": nothing
	Vitals *Vitals // what changes without notice; nil: not known

	MaxFlows uint32 // open flows that it takes, 0 for no limit
	Priority uint32 // for policies that fail over: 0 is served first
	Zone     uint16 // for policies that stay near
	Label    uint64 // for policies, as the operator sees fit

	// KernelDecap says that its agent takes packets out of the tunnel in the
	// kernel: super-packets and unfinished checksums may be sent to it.
	KernelDecap bool

	// FoldsECN says that its agent brings the outer header's mark of congestion into
	// the packet within (RFC 6040, §4.2). What does not gets no ECN there, so that
	// routers drop instead of mark.
	FoldsECN bool

	// Tells says that its agent tells which TCP connections are there: flows end
	// when it says so.
	Tells bool

	Mode Mode // how packets get to it; zero: as each service says

	// Static says that the configuration names it, for one service: it has no agent. Its
	// packets go as Mode says or not at all.
	Static bool

	// Down are its services that its agent found not to work, ordered by name.
	Down []Down

	// VIPs are those that its agent has set up. nil: all, of an agent that does
	// not tell.
	VIPs []netip.Addr

	// What the daemon fills in from the routing table: the longest packets that
	// fit the tunnel to Addr and the link there, bytes, and whether Addr is on
	// that link, not behind a router.
	TunnelMTU, LinkMTU int
	OnLink             bool

	Path *Path // how packets get to Addr; nil: not known
}

// WithPath returns the backend as it is reached by a path.
func (b Backend) WithPath(p *Path) Backend {
	b.Path, b.TunnelMTU, b.LinkMTU, b.OnLink = p, p.MTU, p.LinkMTU, p.OnLink(b.Addr)
	return b
}

// CompareBackends orders backends by name, those of one name by their service.
func CompareBackends(a, b *Backend) int {
	if c := cmp.Compare(a.Name, b.Name); c != 0 || !a.Static || !b.Static {
		return c
	}
	return cmp.Compare(a.Services[0], b.Services[0])
}

// ModeIn returns how packets of a service get to the backend. Direct mode needs a
// backend on our link with a data IP of the VIP's family, the tunnel neither.
func (b *Backend) ModeIn(s *Service) Mode {
	if cmp.Or(b.Mode, s.Mode) == ModeDirect && (b.Static || b.OnLink && b.Addr.Is4() == s.VIP.Is4()) {
		return ModeDirect
	}
	return ModeTunnel
}

// Has reports whether its agent has set a VIP up: packets for another one would
// be lost there.
func (b *Backend) Has(vip netip.Addr) bool { return b.VIPs == nil || slices.Contains(b.VIPs, vip) }

// WhyDown returns why a service does not work there; ok is false if it does.
func (b *Backend) WhyDown(service string) (why string, ok bool) {
	i, ok := slices.BinarySearchFunc(b.Down, service, func(d Down, s string) int { return cmp.Compare(d.Service, s) })
	if !ok {
		return "", false
	}
	return b.Down[i].Why, true
}

// Serves reports whether the backend joins the named service.
func (b *Backend) Serves(service string) bool {
	return b.Services == nil || slices.Contains(b.Services, service)
}

// BackendID returns the backend's identity towards policies: it depends on nothing
// but the two names, so it survives restarts and re-registrations.
func BackendID(service, name string) uint64 {
	const prime = 1099511628211 // FNV-1a, 64 bit
	h := uint64(14695981039346656037)
	for i := 0; i < len(service); i++ {
		h = (h ^ uint64(service[i])) * prime
	}
	h = (h ^ 0) * prime // a separator that no name contains
	for i := 0; i < len(name); i++ {
		h = (h ^ uint64(name[i])) * prime
	}
	return Mix(h)
}
