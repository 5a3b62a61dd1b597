package registry

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/caplance/caplance/core/protocol"
)

// After admission the data path is proven again and again: a HEALTH is answered by
// PROOF datagrams on the path of tunnelled packets, too, and the next HEALTH names
// those that have arrived. One of each round is small, and tells whether packets
// arrive and how long they take; one is as long as the longest tunnelled packet.

const (
	// maxProofs rounds are waited for: what is late by more has not arrived.
	maxProofs = 4
	// maxMissed rounds of which nothing arrived make a backend unreachable.
	maxMissed = 2
	// paddedEvery rounds have a long datagram, as the first ones have, and those
	// after one that did not arrive: it costs as much as 20 heartbeats.
	paddedEvery = 10
)

// proofs is what is known of one session's data path.
type proofs struct {
	rounds []proofRound // the oldest first
	sent   int          // rounds in all
	missed int          // small ones in a row
	tooBig int          // long ones in a row, of rounds whose small one arrived
	length int          // of the last long one, bytes of the tunnel's packet
}

// proofRound is one heartbeat's datagrams.
type proofRound struct {
	at           time.Time
	small, long  string // nonces; long is "" where none was sent
	arrived      bool   // the small one
	judged, fits bool
}

// hear takes the echoes of a HEALTH that was read now, and returns the path's round
// trip time, 0 when no echo tells.
func (p *proofs) hear(echoes []protocol.Echo, now time.Time) (rtt time.Duration) {
	for _, e := range echoes {
		for i := range p.rounds {
			switch r := &p.rounds[i]; e.Nonce {
			case r.small:
				r.arrived, p.missed = true, 0
				rtt = max(now.Sub(r.at)-e.Held, time.Microsecond)
			case r.long:
				r.fits, p.tooBig = true, 0
			}
		}
	}
	return rtt
}

// judge counts the rounds that should have arrived by now.
func (p *proofs) judge(now time.Time, due time.Duration) {
	for i := range p.rounds {
		r := &p.rounds[i]
		if r.judged || now.Sub(r.at) < due {
			continue
		}
		r.judged = true
		switch {
		case !r.arrived:
			p.missed++
		case r.long != "" && !r.fits:
			p.tooBig++
		}
	}
}

// next begins another round.
func (p *proofs) next(now time.Time) *proofRound {
	r := proofRound{at: now, small: newNonce()}
	if p.sent < maxMissed || p.sent%paddedEvery == 0 || p.tooBig > 0 {
		r.long = newNonce()
	}
	p.sent++
	if len(p.rounds) == maxProofs {
		p.rounds = append(p.rounds[:0], p.rounds[1:]...)
	}
	p.rounds = append(p.rounds, r)
	return &p.rounds[len(p.rounds)-1]
}

// path returns what is wrong with the data path, "" if nothing is.
func (p *proofs) path() (unreachable, narrow string) {
	if p.missed >= maxMissed {
		return fmt.Sprintf("%d datagrams in a row on the path of its packets did not arrive (UDP to the tunnel port; the session still works)", p.missed), ""
	}
	if p.tooBig >= maxMissed {
		return "", fmt.Sprintf("packets of %d bytes do not arrive though smaller ones do: some link on the way is narrower than its route says (set the route's mtu)", p.length)
	}
	return "", ""
}

// proveAgain takes what a HEALTH says of the last proofs and sends others.
func (s *session) proveAgain(ctx context.Context, req protocol.Request) {
	if !s.req.Proofs {
		return
	}
	now := time.Now()
	due := s.r.settings.Load().Lease / 6 // half a heartbeat
	rtt := s.proofs.hear(req.Echoes, now)
	s.proofs.judge(now, due)
	unreachable, narrow := s.proofs.path()
	if s.r.leases.proven(ctx, s, rtt, unreachable, narrow) {
		s.tellPath(unreachable, narrow)
	}
	if n := len(s.proofs.rounds); n > 0 && now.Sub(s.proofs.rounds[n-1].at) < due {
		return
	}
	s.sendProofs(s.proofs.next(now))
}

func (s *session) tellPath(unreachable, narrow string) {
	switch {
	case unreachable != "":
		s.report(slog.LevelWarn, "backend unreachable: it gets no new flows", "addr", s.addr, "why", unreachable)
	case narrow != "":
		s.report(slog.LevelWarn, "path to backend is too narrow", "addr", s.addr, "why", narrow)
	default:
		s.report(slog.LevelInfo, "path to backend works again", "addr", s.addr)
	}
}

// sendProofs sends a round's datagrams. One that cannot be sent does not arrive.
func (s *session) sendProofs(r *proofRound) {
	_ = s.r.cfg.Sanity(s.addr, []byte(protocol.ProofPrefix+r.small))
	if r.long == "" {
		return
	}
	s.writing.Lock()
	s.proofs.length = s.sent.tunnel
	s.writing.Unlock()
	if s.proofs.length == 0 {
		r.long = ""
		return
	}
	d := []byte(protocol.ProofPrefix + r.long + " ")
	d = append(d, bytes.Repeat([]byte{'.'}, max(0, s.proofs.length-len(d)))...)
	_ = s.r.cfg.Sanity(s.addr, d)
}

// proven notes how the path of a backend does, and reports whether what is wrong with
// it has changed.
func (l *leases) proven(ctx context.Context, s *session, rtt time.Duration, unreachable, narrow string) (turned bool) {
	l.mu.Lock()
	e := l.held(s)
	if e == nil {
		l.mu.Unlock()
		return false
	}
	if rtt > 0 {
		e.backend.Vitals.SetRTT(rtt)
	}
	turned = (unreachable == "") != (e.unreachable == "") || (narrow == "") != (e.backend.Narrow == "")
	l.mu.Unlock()
	if !turned {
		return false
	}
	l.change(ctx, func() (bool, error) {
		if e := l.held(s); e != nil {
			e.unreachable, e.backend.Narrow = unreachable, narrow
			if unreachable != "" {
				e.backend.Vitals.SetRTT(0)
			}
			e.refresh()
		}
		return true, nil
	})
	return true
}
