package core

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// ServiceID numbers a service: the same for a name as long as the state lives,
// never a position in a file. It indexes arrays in the process and the kernel.
type ServiceID uint16

// MaxServices is how many services there can be at once.
const MaxServices = 1 << 14

// Snapshot says what the machine is to do, at one moment. It is immutable.
// Parts that did not change since the snapshot before are shared with it, so
// that readers compare pointers.
type Snapshot struct {
	Revision uint64
	Settings *Settings
	Services *ServiceSet
	Pools    *PoolSet
	VIPs     *VIPSet
	Links    *LinkSet
	Complete bool // every source has spoken since the start: pruning is allowed
	Settled  bool // backends have had the time since the start to register: who is not here will not come
}

// Settings are what the configuration says of the datapath as a whole.
type Settings struct {
	Type        DatapathType
	Queues      int // NFQUEUEs and workers
	FirstQueue  uint16
	QueueLength uint32 // packets
	TunnelPort  uint16
	Flows       int // of all workers together, and in the kernel
	MaxBackends int // memberships that the kernel has room for
	Timeouts    Timeouts
	HashSeed    uint32 // of the hash that spreads flows over queues
	HostAccess  HostAccess
}

// HostAccess says at which VIPs the machine itself is reached from outside, by
// what no service claims.
type HostAccess uint8

// The ways.
const (
	HostOwn    HostAccess = iota // at those that were its own addresses before
	HostAlways                   // at all
	HostNever                    // at none
)

// ParseHostAccess reads a way's name.
func ParseHostAccess(s string) (HostAccess, error) {
	for _, h := range []HostAccess{HostOwn, HostAlways, HostNever} {
		if s == h.String() {
			return h, nil
		}
	}
	return 0, fmt.Errorf("%q must be own, always or never", s)
}

func (h HostAccess) String() string {
	return [...]string{"own", "always", "never"}[min(h, HostNever)]
}

// HasBackend reports whether a backend is in a pool, or held out of one.
func (s *Snapshot) HasBackend(name string) (found bool) {
	s.Pools.Each(func(p *Pool) {
		found = found || p.Named(name) != nil || slices.ContainsFunc(p.Out, func(m Member) bool { return m.Name == name })
	})
	return found
}

// BackendNames returns the names of all that are in a pool, or held out of one.
func (s *Snapshot) BackendNames() []string {
	names := map[string]bool{}
	s.Pools.Each(func(p *Pool) {
		for _, list := range [][]Member{p.Members, p.Out} {
			for i := range list {
				names[list[i].Name] = true
			}
		}
	})
	return slices.Sorted(maps.Keys(names))
}

// Withdrawn returns the VIPs on links that are not to be announced, each with the first
// of its services that has fewer backends for new flows than its MinBackends. Before
// backends have had the time to register there is none.
func (s *Snapshot) Withdrawn() map[netip.Addr]*Service {
	if !s.Settled {
		return nil
	}
	var out map[netip.Addr]*Service
	for _, svc := range s.Services.List {
		if p := s.Pools.Of(svc.ID); p == nil || p.Eligible >= svc.MinBackends || svc.Leaving || out[svc.VIP] != nil {
			continue
		}
		if v, ok := s.VIPs.Get(svc.VIP); ok && v.Link.Name != "lo" { // a router sends those of lo here
			if out == nil {
				out = map[netip.Addr]*Service{}
			}
			out[svc.VIP] = svc
		}
	}
	return out
}

// ServiceSet is the services by ID and in the order of the configuration.
type ServiceSet struct {
	List   []*Service
	byID   []*Service
	byName map[string]*Service
}

// NewServiceSet returns a set of services with distinct IDs and names.
func NewServiceSet(list []*Service) *ServiceSet {
	s := &ServiceSet{List: list, byName: make(map[string]*Service, len(list))}
	for _, svc := range list {
		if s.byName[svc.Name] == nil {
			s.byName[svc.Name] = svc
		}
		for len(s.byID) <= int(svc.ID) {
			s.byID = append(s.byID, nil)
		}
		s.byID[svc.ID] = svc
	}
	return s
}

// Get returns the service with an ID, or nil.
func (s *ServiceSet) Get(id ServiceID) *Service {
	if int(id) >= len(s.byID) {
		return nil
	}
	return s.byID[id]
}

// Len returns how long an array by ServiceID must be.
func (s *ServiceSet) Len() int { return len(s.byID) }

// Named returns the service with a name, or nil. One that is leaving gives way
// to a newer one by the same name.
func (s *ServiceSet) Named(name string) *Service { return s.byName[name] }

// For returns the services that a backend is in, in the order in which it names
// them, or in that of the configuration.
func (s *ServiceSet) For(b *Backend) []*Service {
	if b.Services == nil {
		return s.List
	}
	out := make([]*Service, 0, len(b.Services))
	for i, name := range b.Services {
		if svc := s.byName[name]; svc != nil && !slices.Contains(b.Services[:i], name) {
			out = append(out, svc)
		}
	}
	return out
}

// Of returns the service that balances a VIP's protocol and port, or nil.
func (s *ServiceSet) Of(vip netip.Addr, proto uint8, port uint16) *Service {
	i := slices.IndexFunc(s.List, func(svc *Service) bool { return svc.VIP == vip && svc.Matches(proto, port) })
	if i < 0 {
		return nil
	}
	return s.List[i]
}

// PoolSet is the services' pools.
type PoolSet struct{ byID []*Pool }

// NewPoolSet starts without pools.
func NewPoolSet() *PoolSet { return &PoolSet{} }

// Of returns a service's pool, nil for a service that is not there.
func (p *PoolSet) Of(id ServiceID) *Pool {
	if int(id) >= len(p.byID) {
		return nil
	}
	return p.byID[id]
}

// Len returns how long an array by ServiceID must be.
func (p *PoolSet) Len() int { return len(p.byID) }

// SameMembers reports whether two sets differ by nothing but their tables.
func (p *PoolSet) SameMembers(o *PoolSet) bool {
	return p == o || slices.EqualFunc(p.byID, o.byID, func(a, b *Pool) bool {
		return a == b || a != nil && b != nil && a.Service == b.Service && a.SameMembers(b)
	})
}

// Each shows every pool.
func (p *PoolSet) Each(show func(*Pool)) {
	for _, pool := range p.byID {
		if pool != nil {
			show(pool)
		}
	}
}

// With returns the set with some pools exchanged; a nil pool takes that of its
// service away.
func (p *PoolSet) With(changed map[ServiceID]*Pool) *PoolSet {
	out := &PoolSet{slices.Clone(p.byID)}
	for id, pool := range changed {
		for len(out.byID) <= int(id) {
			out.byID = append(out.byID, nil)
		}
		out.byID[id] = pool
	}
	return out
}

// VIP is an address that the machine answers for.
type VIP struct {
	Addr   netip.Addr
	Number uint16 // in the kernel's flow keys; stable as long as the state lives
	Link   Link   // where it belongs: the link whose network it lies in, else lo
	Host   bool   // the machine gets what no service claims; else it is dropped
}

// VIPSet is the VIPs in order of their addresses.
type VIPSet struct{ List []VIP }

// Get returns the VIP with an address; ok is false if there is none.
func (s *VIPSet) Get(addr netip.Addr) (vip VIP, ok bool) {
	i, ok := slices.BinarySearchFunc(s.List, addr, func(v VIP, a netip.Addr) int { return v.Addr.Compare(a) })
	if !ok {
		return VIP{}, false
	}
	return s.List[i], true
}

// Link is a network interface as it is now.
type Link struct {
	Name  string
	Index int // 0: it is not there
	MTU   int // bytes
	MAC   MAC
	Type  string // of rtnetlink: "device", "veth", "bridge", …
	Bare  bool   // packets have no header of the link's: TUN, WireGuard, IPIP, GRE, PPP
	Up    bool   // administratively and by its carrier
	Epoch uint64 // grows whenever the link comes to run
}

// LinkSet is the links that clients come in by, in order of their names.
type LinkSet struct {
	List []Link
	MTU  int // the largest of the links that VIPs are on, bytes
}

// MAC is an Ethernet address, zero when it is not known.
type MAC [6]byte

// Path is how the kernel routes packets to a backend.
type Path struct {
	Source  netip.Addr // address that tunnel packets leave from; invalid: no route
	MTU     int        // bytes of an inner packet that fit the tunnel
	LinkMTU int        // bytes of a packet that fits without a tunnel
	Link    int        // index of the link they leave by
	LinkMAC MAC        // that link's; zero for links without
	NextHop netip.Addr // on that link: the backend itself, or a router
	MAC     MAC        // the next hop's; zero: not known yet
	Bare    bool       // the link is bare: there are no MACs
}

// OnLink reports whether the backend at addr can be addressed on the link by its
// MAC: it is not behind a router, and the link has MACs.
func (p *Path) OnLink(addr netip.Addr) bool { return p.NextHop == addr && !p.Bare }
