package core

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// BackendState is the registry's view of one backend.
type BackendState uint8

// The states. Only Active backends get new flows. Established flows go on in
// every state but Paused, where packets are held back (dropped), until the
// backend leaves the registry.
const (
	Active    BackendState = iota
	Unhealthy              // its last HEALTH code was not 200
	Paused                 // registered, but no packet is forwarded to it
	Draining               // established flows only
	Lost                   // its session broke; the lease still runs
)

var stateNames = [...]string{"active", "unhealthy", "paused", "draining", "lost"}

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
	Load     string    // last HEALTH load=, verbatim, informational

	MaxFlows uint32 // open flows that it takes, 0 for no limit
	Priority uint32 // for policies that fail over: 0 is served first
	Zone     uint16 // for policies that stay near
	Label    uint64 // for policies, as the operator sees fit

	// KernelDecap says that its agent takes packets out of the tunnel in the
	// kernel: super-packets and unfinished checksums may be sent to it.
	KernelDecap bool

	Mode Mode // how packets get to it; zero: as each service says

	// What the daemon fills in from the routing table: the longest packets that
	// fit the tunnel to Addr and the link there, bytes, and whether Addr is on
	// that link, not behind a router.
	TunnelMTU, LinkMTU int
	OnLink             bool
}

// ModeIn is how packets of a service get to the backend. Direct mode needs a
// backend on our link with a data IP of the VIP's family, the tunnel neither.
func (b *Backend) ModeIn(s *Service) Mode {
	if cmp.Or(b.Mode, s.Mode) == ModeDirect && b.OnLink && b.Addr.Is4() == s.VIP.Is4() {
		return ModeDirect
	}
	return ModeTunnel
}

// Serves says whether the backend joins the named service.
func (b *Backend) Serves(service string) bool {
	return b.Services == nil || slices.Contains(b.Services, service)
}

// BackendID is the backend's identity towards policies: it depends on nothing
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
