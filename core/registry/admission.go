package registry

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/caplance/caplance/core/protocol"
)

// resend is the pace of the sanity datagrams: UDP loses, and the first packet
// to an unresolved neighbour is lost more often than others.
const resend = time.Second

// register answers nothing: the balancer's answer to a good REGISTER is the
// sanity datagram. Another REGISTER before SANE replaces the first; one in a
// registered session is an update.
func (s *session) register(ctx context.Context, req protocol.Request) (answer, error) {
	if err := s.mayRegister(req); err != nil {
		return answer{}, err
	}
	req, owner, err := s.permitted(req)
	if err != nil {
		return answer{}, err
	}
	if s.name != "" {
		return s.update(ctx, req)
	}
	s.owner = owner
	if err := s.r.leases.free(owner, req); err != nil {
		return answer{}, err
	}
	s.unprove()
	s.prover.Wait()
	timeout, nonce := s.r.settings.Load().SanityTimeout, newNonce()
	s.req, s.nonce = req, nonce
	proof, unprove := context.WithTimeout(ctx, timeout)
	s.proof, s.unprove = proof, unprove
	s.r.conns.heard(s, true, time.Now())
	s.prover.Go(func() { s.prove(proof, req, nonce, timeout) })
	return answer{}, nil
}

// mayRegister returns why a REGISTER is refused whoever else there is.
func (s *session) mayRegister(req protocol.Request) error {
	same := req.Name == s.name && req.Addr == s.addr && req.Version >= 2 && s.req.Version >= 2
	if s.name != "" && !same {
		return fmt.Errorf("session is registered as %s already", s.name)
	}
	there := s.r.settings.Load().Services
	for _, name := range req.Services {
		if !slices.Contains(there, name) {
			return fmt.Errorf("service %s is not configured (there are: %s)", name, strings.Join(there, ", "))
		}
	}
	return s.r.cfg.refused(req.Name, req.Addr)
}

// permitted returns a REGISTER as the balancer allows it to the agent that has
// proven who it is, and whose backend it is then.
func (s *session) permitted(req protocol.Request) (protocol.Request, owner, error) {
	o := owner{peer: s.peer.Addr()}
	id, set := s.id.Load(), s.r.settings.Load()
	if id == nil || set.Own == nil {
		return req, o, set.allows(req.Addr, o.peer)
	}
	a, err := set.agent(id)
	if err != nil {
		return req, o, fmt.Errorf("agent is no longer listed by the balancer: %w", err)
	}
	if req.Services == nil {
		req.Services = a.Services
	}
	o.agent, o.id, o.names = a.Name, id, a.MaxNames
	return req, o, a.Permits(req.Name, req.Addr, o.peer, req.Services, req.Weight)
}

// update makes the choices of another REGISTER hold: its data path is proven,
// its flows stay, and so does its state.
func (s *session) update(ctx context.Context, req protocol.Request) (answer, error) {
	changed, revision, err := s.r.leases.update(ctx, s, req)
	if err != nil {
		return answer{}, err
	}
	s.req = req
	s.throttle(ctx, changed)
	s.wait(ctx, revision)
	if changed {
		s.report(slog.LevelInfo, "backend updated")
	}
	return s.registered(), nil
}

// proving reports whether a sanity check is under way.
func (s *session) proving() bool { return s.proof != nil && s.proof.Err() == nil }

// prove sends the datagram until ctx ends: by SANE, by another REGISTER, by
// the end of the session, or because nobody answered in time, which ends it.
// There is one a second, however many REGISTERs there are.
func (s *session) prove(ctx context.Context, req protocol.Request, nonce string, timeout time.Duration) {
	to, datagram := req.Addr, "SANITY "+nonce
	if req.Tag != "" {
		datagram += " " + req.Tag
	}
	next := time.NewTimer(resend - time.Since(s.lastSanity))
	defer next.Stop()
	var err error
	for {
		select {
		case <-next.C:
			s.lastSanity = time.Now()
			if err = s.sanity(to, datagram); err != nil {
				s.r.quiet.warn(s.peer.Addr(), "", "sanity datagram not sent", "to", to, "err", err)
			}
			next.Reset(resend)
			continue
		case <-ctx.Done():
		}
		break
	}
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return
	}
	reason := fmt.Errorf("sanity datagram to %s got no SANE within %s (is UDP to the tunnel port let through?)",
		to, timeout)
	if err != nil {
		reason = fmt.Errorf("sanity datagram to %s could not be sent", to)
	}
	s.write(protocol.Refuse(reason))
	s.comm.Close()
}

// sanity sends a datagram if all sessions together have not sent too many: they go
// to whom agents name.
func (s *session) sanity(to netip.Addr, datagram string) error {
	if !s.r.sanities.take(time.Now(), s.r.settings.Load().Limits.Sanity) {
		s.r.counted.sanities.Add(1)
		return errors.New("all sessions together have sent as many as they may (registry.limits.sanity)")
	}
	return s.r.cfg.Sanity(to, []byte(datagram))
}

// sane admits the backend if the nonce came through the tunnel path. The same
// SANE once more, from an agent that got the datagram twice, is answered alike.
func (s *session) sane(ctx context.Context, nonce string) (answer, error) {
	if s.nonce == "" {
		return answer{}, errors.New("SANE before REGISTER")
	}
	if subtle.ConstantTimeCompare([]byte(nonce), []byte(s.nonce)) == 0 {
		return answer{}, errors.New("nonce is not that of the last sanity datagram")
	}
	if s.name == "" {
		if err := s.admit(ctx); err != nil {
			return answer{}, err
		}
	}
	return s.registered(), nil
}

// admit ends the proof and lists the backend.
func (s *session) admit(ctx context.Context) error {
	s.unprove()
	s.prover.Wait()
	if errors.Is(s.proof.Err(), context.DeadlineExceeded) {
		return errors.New("SANE came too late")
	}
	s.spaceOut(ctx)
	set := s.r.settings.Load()
	req, owner, err := s.permitted(s.req) // since REGISTER
	if err == nil {
		err = s.r.cfg.refused(req.Name, req.Addr)
	}
	if err != nil {
		s.nonce = ""
		return err
	}
	s.req, s.owner = req, owner
	b, revision, err := s.r.leases.admit(ctx, s, s.req)
	if err != nil {
		s.nonce = ""
		return err
	}
	s.name, s.addr = b.Name, b.Addr
	if s.req.Version >= 2 {
		s.lease.Store(int32(told))
		s.retime()
	}
	if s.r.settings.Load() != set { // Update may not have seen the backend
		s.retime()
		s.r.Recheck()
	}
	s.expiry.Stop()
	s.r.conns.registered(s)
	if s.numbered = s.req.Offers && s.req.Version >= 2; s.numbered {
		s.pusher.Go(func() { s.push(ctx) })
	}
	if s.req.Tells && s.req.Version >= 2 && s.r.cfg.Connections != nil {
		s.token = newNonce()
		s.r.streams.offer(s)
	}
	s.report(slog.LevelInfo, "backend registered", "addr", s.addr)
	s.wait(ctx, revision)
	return nil
}

// spaceOut has an agent wait that comes and goes: each time changes the pools. The limit
// is that of a session's changes, of each backend that the agent may have, or of the
// data IP where agents prove nothing.
func (s *session) spaceOut(ctx context.Context) {
	whose, most := s.owner.agent, max(1, s.owner.names)
	if whose == "" {
		whose, most = s.req.Addr.String(), 1
	}
	if d := s.r.comings.take(whose, time.Now(), s.r.settings.Load().Limits.Changes*most); d > 0 {
		s.r.counted.changes.Add(1)
		s.r.quiet.warn(s.peer.Addr(), "", "backend registers too often: it has to wait", "peer", s.peer, "backend", s.req.Name, "delay", d)
		sleep(ctx, d)
	}
}

func newNonce() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
