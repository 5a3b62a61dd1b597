package registry

import (
	"context"
	"net/netip"
	"strconv"
	"time"

	"github.com/caplance/caplance/core/protocol"
)

// sent is the offer that an agent has. The session's writing guards it.
type sent struct {
	terms  terms
	made   uint64    // Registry.offers then
	at     time.Time // when it was looked at
	vips   []netip.Addr
	number uint64 // of the offer; 0: none was sent yet
	tunnel int    // the longest packet through the tunnel, bytes; 0: not known
	setUp  uint64 // the newest that the agent has set up
}

// offerAge is how old an offer may be that a heartbeat carries no news of, though nobody
// has called Offers: to make one of a thousand services for each heartbeat took a
// tenth of a processor.
const offerAge = 10 * time.Second

// Offers sends every registered agent that reads OFFER at once what has
// changed in its offer. It does not block: each session has a goroutine for it,
// and an agent that does not read holds up nobody. Agents that do not read
// OFFER get it with their next HEALTHACK. It may be called at any time.
func (r *Registry) Offers() {
	r.offers.Add(1)
	for _, s := range r.conns.all() {
		select {
		case s.stale <- struct{}{}:
		default: // it will see the newest
		}
	}
}

// push sends offers unasked until ctx ends or it cannot be written to.
func (s *session) push(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.stale:
		}
		if err := s.pushOffer(ctx); err != nil {
			s.log.Warn("offer not sent", "backend", s.name, "err", err)
			s.comm.Close() // half a line may have left
			return
		}
	}
}

// pushOffer sends OFFER if something has changed. Before REGISTERED there is
// nothing to change.
func (s *session) pushOffer(ctx context.Context) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.sent.number == 0 {
		return nil
	}
	if options := s.tell(ctx, news); options != "" {
		return s.comm.WriteLine(string(protocol.Offer) + options)
	}
	return nil
}

// tell returns the options for a part of the offer, and counts them as sent.
// The caller holds writing until the line is written, so that the agent reads
// offers in the order in which they were made.
func (s *session) tell(ctx context.Context, p part) string {
	made, at := s.r.offers.Load(), time.Now()
	if p == nothing || p == news && s.sent.number > 0 && s.sent.made == made && at.Sub(s.sent.at) < offerAge {
		return ""
	}
	b, _ := s.r.leases.status(s)
	if b.Name == "" { // gone
		return ""
	}
	offer := s.r.cfg.Offer(b)
	if !s.req.Checks {
		offer.Services = nil
	}
	now, old := offer.terms(s.r.settings.Load().Lease), s.sent
	if now != old.terms || old.number == 0 {
		s.sent = sent{terms: now, vips: append([]netip.Addr{}, offer.VIPs...), number: old.number + 1, setUp: old.setUp}
		s.r.leases.forgetVIPs(ctx, s, s.sent.vips)
	}
	s.sent.made, s.sent.at, s.sent.tunnel = made, at, offer.TunnelMTU
	options := now.since(old.terms)
	if p == everything {
		options = now.all()
	}
	if s.numbered && (p == everything || options != "") {
		options += " offer=" + strconv.FormatUint(s.sent.number, 10)
	}
	if p == everything && s.req.Checks && len(offer.Services) == 0 {
		options += " serves=" // it is to tell all the same
	}
	if p == everything && s.token != "" {
		options += " connections=" + s.token
	}
	if p == everything {
		options += " update=yes"
	}
	return options
}

// acknowledge carries out HEALTH, and has no other offer sent meanwhile: its
// VIPs are those of the last.
func (s *session) acknowledge(ctx context.Context, req protocol.Request) (turned bool, err error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.r.leases.health(ctx, s, req, s.acknowledged(req))
}

// acknowledged returns the VIPs that the agent has set up by what its HEALTH
// says, nil when that is no news. An agent that does not read OFFER is asked
// for one thing at a time: its HEALTH is later than all that it was sent. The
// caller holds writing.
func (s *session) acknowledged(req protocol.Request) []netip.Addr {
	if s.sent.number == s.sent.setUp || s.numbered && req.Offer != s.sent.number {
		return nil
	}
	s.sent.setUp = s.sent.number
	return s.sent.vips
}
