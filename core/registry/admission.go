package registry

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// resend is the pace of the sanity datagrams: UDP loses, and the first packet
// to an unresolved neighbour is lost more often than others.
const resend = time.Second

// register answers nothing: the balancer's answer to a good REGISTER is the
// sanity datagram. Another REGISTER before SANE replaces the first.
func (s *session) register(ctx context.Context, req Request) error {
	if s.name != "" {
		return fmt.Errorf("session is registered as %s already", s.name)
	}
	for _, name := range req.Services {
		if !slices.Contains(s.r.cfg.Services, name) {
			return fmt.Errorf("service %s is not configured (there are: %s)", name, strings.Join(s.r.cfg.Services, ", "))
		}
	}
	if err := s.r.roster.free(req); err != nil {
		return err
	}
	s.unprove()
	s.prover.Wait()
	s.req, s.nonce = req, newNonce()
	s.proof, s.unprove = context.WithTimeout(ctx, s.r.cfg.SanityTimeout)
	s.prover.Go(func() { s.prove(s.proof, req.Addr, s.nonce) })
	return nil
}

// prove sends the datagram until ctx ends: by SANE, by another REGISTER, by
// the end of the session, or because nobody answered in time, which ends it.
func (s *session) prove(ctx context.Context, to netip.Addr, nonce string) {
	tick := time.NewTicker(resend)
	defer tick.Stop()
	var err error
	for {
		if err = s.r.cfg.Sanity(to, []byte("SANITY "+nonce)); err != nil {
			s.r.quiet.warn("sanity datagram not sent", "to", to, "err", err)
		}
		select {
		case <-tick.C:
			continue
		case <-ctx.Done():
		}
		break
	}
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return
	}
	reason := fmt.Errorf("sanity datagram to %s got no SANE within %s (is UDP to the tunnel port let through?)",
		to, s.r.cfg.SanityTimeout)
	if err != nil {
		reason = fmt.Errorf("sanity datagram to %s could not be sent", to)
	}
	s.write(invalid(reason))
	s.comm.Close()
}

// sane admits the backend if the nonce came through the tunnel path. The same
// SANE once more, from an agent that got the datagram twice, is answered alike.
func (s *session) sane(nonce string) (string, error) {
	if s.nonce == "" {
		return "", errors.New("SANE before REGISTER")
	}
	if subtle.ConstantTimeCompare([]byte(nonce), []byte(s.nonce)) == 0 {
		return "", errors.New("nonce is not that of the last sanity datagram")
	}
	if s.name == "" {
		s.unprove()
		s.prover.Wait()
		if errors.Is(s.proof.Err(), context.DeadlineExceeded) {
			return "", errors.New("SANE came too late")
		}
		b, err := s.r.roster.admit(s, s.req)
		if err != nil {
			s.nonce = ""
			return "", err
		}
		s.name, s.backend = b.Name, b
	}
	return s.welcome(), nil
}

// welcome is the answer to SANE: the plain words for a first-generation agent,
// and what the others then set up.
func (s *session) welcome() string {
	line := fmt.Sprintf("%s %s %s", Registered, s.name, s.req.Addr)
	if s.req.Version < 2 {
		return line
	}
	o := s.r.cfg.Offer(s.backend)
	if len(o.VIPs) > 0 {
		line += " vips=" + list(o.VIPs)
	}
	if o.MTU > 0 {
		line += fmt.Sprintf(" mtu=%d", o.MTU)
		if o.Direct {
			line += " mode=direct"
		}
	}
	if len(o.Balancers) > 0 {
		line += " balancers=" + list(o.Balancers)
	}
	return line
}

func list(addrs []netip.Addr) string {
	words := make([]string, len(addrs))
	for i, a := range addrs {
		words[i] = a.String()
	}
	return strings.Join(words, ",")
}

func (s *session) healthAck() string {
	line := string(HealthAck) + " 200"
	if s.req.Version < 2 {
		return line
	}
	return fmt.Sprintf("%s state=%s active=%d", line, s.r.roster.status(s), s.r.cfg.Active(s.name))
}
