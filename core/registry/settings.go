package registry

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/protocol"
)

// Settings is what may change while the registry runs.
type Settings struct {
	Agents   []netip.Prefix // peers that may speak; all others are hung up on
	Services []string       // services= may name these

	Allow []netip.Prefix // data IPs of agents that prove nothing, beside the addresses that they come from

	Own   auth.Credentials // this balancer's; nil: nobody proves who they are
	Known []auth.Agent     // those that may register

	Lease         time.Duration // between two lines, as agents are told
	Grace         time.Duration // how much more it may be
	PlainLease    time.Duration // of first-generation agents, who are not told; until then an agent has to be registered
	Rejoin        time.Duration // how long a backend is kept whose session broke
	WriteTimeout  time.Duration // for one answer
	SanityTimeout time.Duration // between REGISTER and SANE
	Limits        Limits
	DrainTimeout  time.Duration // from DRAIN until flows are re-scheduled
}

// admits reports whether a peer may speak.
func (s *Settings) admits(peer netip.Addr) bool {
	return slices.ContainsFunc(s.Agents, func(p netip.Prefix) bool { return p.Contains(peer) })
}

// agent returns which one an identity is.
func (s *Settings) agent(id *auth.Identity) (*auth.Agent, error) { return auth.Find(s.Known, id) }

// allows returns why an agent that proves nothing may not have a data IP.
func (s *Settings) allows(data, peer netip.Addr) error {
	if data == peer || slices.ContainsFunc(s.Allow, func(p netip.Prefix) bool { return p.Contains(data) }) {
		return nil
	}
	return fmt.Errorf("data IP %v is not the address that the agent comes from, %v (registry.allow lists others at the balancer)", data, peer)
}

// keeps reports whether a session may go on.
func (s *Settings) keeps(peer netip.Addr, id *auth.Identity) (why string, ok bool) {
	switch {
	case !s.admits(peer):
		return "its peer is no longer in the prefixes of agents", false
	case s.Own == nil:
		return "", true
	case id == nil:
		return "agents have to prove who they are from now on", false
	}
	err := s.Own.Check(id)
	if err == nil {
		_, err = s.agent(id)
	}
	var unknown *auth.UnknownError
	switch {
	case errors.As(err, &unknown):
		return "its " + id.Kind() + " is no longer listed", false
	case err != nil:
		return err.Error(), false
	}
	return "", true
}

// lease returns how long a session may be silent.
func (s *Settings) lease(kind leaseKind) time.Duration {
	switch kind {
	case told:
		return s.Lease + s.Grace
	case streaming:
		return protocol.StreamLease
	}
	return s.PlainLease
}

// Update makes the settings hold for new and running sessions: peers that may
// no longer speak are hung up on, backends that their agents may not have any more
// are removed, and the timeouts hold from a session's next line on. A deadline that
// is running stays as it is. Backends of a service that is gone stay registered for
// their others. It may be called at any time.
func (r *Registry) Update(set Settings) {
	set.Limits.fill()
	r.settings.Store(&set)
	for _, s := range r.conns.all() {
		id := s.id.Load()
		if id == nil && s.authenticate != nil || s.joining.Load() {
			continue // it is proving who it is, and is judged then; or it is nobody yet
		}
		if why, ok := set.keeps(s.peer.Addr(), id); !ok {
			s.hangUp(why)
			continue
		}
		s.retime()
	}
	r.Offers()
	r.Recheck()
}
