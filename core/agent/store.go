package agent

import (
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/caplance/caplance/core/forward"
	"github.com/caplance/caplance/core/netmon"
)

// store makes the desired state from what the session and the network say, and
// hands it on. Its methods may be called by anyone at any time.
type store struct {
	dataIP  netip.Addr
	given   bool // by the configuration
	network *netmon.Monitor
	guard   func() *guard // of this moment
	guarded func(was, now map[netip.Addr]string)
	set     func(*desired)

	mu      sync.Mutex
	session served
	refused map[netip.Addr]string // VIPs of session that the machine does not get, and why
	route   int                   // the last known MTU on the way to the balancer, bytes; 0: none
	last    *desired              // nil: none yet
}

// served is what a session has the machine serve.
type served struct {
	heard     bool       // by a balancer's offer
	peer      netip.Addr // the balancer; invalid: none yet
	vips      []netip.Addr
	balancers []netip.Addr
	mtu       int  // as the balancer says; 0: it does not
	direct    bool // packets come without a tunnel
}

// serve makes what a session says hold and returns the revision that has it.
func (s *store) serve(to served) (revision uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookAt(to.peer)
	s.session = to
	return s.update()
}

// trust takes packets from these balancers, too, before the one of the session
// has made an offer. What is served stays.
func (s *store) trust(peer netip.Addr, balancers []netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookAt(peer)
	s.session.peer, s.session.balancers = peer, balancers
	s.update()
}

// lookAt makes the monitor watch the path to a balancer.
func (s *store) lookAt(peer netip.Addr) {
	if s.session.peer != peer {
		s.route = 0
		s.network.Watch([]netip.Addr{peer})
	}
}

// refresh makes what the network is like now hold.
func (s *store) refresh() (revision uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.update()
}

// newest returns the newest state, nil before the first.
func (s *store) newest() *desired {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

func (s *store) update() (revision uint64) {
	vips := s.session.vips
	if len(vips) > 0 || len(s.refused) > 0 {
		was := s.refused
		if vips, s.refused = s.guard().admit(vips); !maps.Equal(was, s.refused) {
			s.guarded(was, s.refused)
		}
	}
	next := &desired{
		heard: s.session.heard, vips: vips, balancers: slices.Clone(s.session.balancers),
		mtu: s.mtu(), link: s.link(), revision: 1,
	}
	if s.last != nil {
		if next.same(s.last) {
			return s.last.revision
		}
		next.revision = s.last.revision + 1
	}
	s.last = next
	s.set(next)
	return next.revision
}

// link returns the name of the link that has the data IP, or that had
// it last: a link that is deleted and made again has the address a moment later.
func (s *store) link() string {
	n := s.network.Network()
	for _, a := range n.Addrs {
		if l, ok := n.Link(a.Link); ok && a.Prefix.Addr() == s.dataIP && (l.Ethernet || l.Bare) {
			return l.Name
		}
	}
	if s.last == nil {
		return ""
	}
	return s.last.link
}

// mtu returns the smaller one of what the balancer offers and what the route to
// it allows, in bytes of a client's packet. While there is no route, the last
// one counts.
func (s *store) mtu() int {
	if !s.session.heard {
		return 0
	}
	if p, err := s.network.Path(s.session.peer); err == nil {
		s.route = p.MTU
	}
	room := s.route
	if !s.session.direct {
		room -= forward.Overhead(s.session.peer)
	}
	switch offered := s.session.mtu; {
	case s.route == 0:
		return max(offered, minMTU)
	case offered == 0:
		return room
	default:
		return min(offered, room)
	}
}
