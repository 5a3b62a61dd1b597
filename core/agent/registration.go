package agent

import (
	"crypto/rand"
	"encoding/hex"
	"net/netip"
	"slices"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/protocol"
)

// register sends REGISTER, which is answered by the sanity datagram. Packets of
// flows from an earlier session are taken all along.
func (s *session) register() error {
	select {
	case <-s.a.tunnel.nonces: // of an earlier session
	default:
	}
	s.a.store.trust(s.peer, s.allow(s.a.tunnel.allow.Load().vips, nil))
	req := s.choices(s.a.config())
	req.Tag = newTag()
	s.a.tunnel.tag.Store(&req.Tag)
	req.State = map[State]core.BackendState{Paused: core.Paused, Draining: core.Draining}[s.a.admin]
	return s.comm.WriteLine(req.String())
}

// choices returns a REGISTER with what a configuration says of the backend.
func (s *session) choices(c *Config) protocol.Request {
	return protocol.Request{
		Verb: protocol.Register, Name: c.Name, Addr: s.a.dataIP, Version: 2, Offers: true,
		Services: c.Services, Weight: c.Weight, MaxFlows: c.MaxFlows, Priority: c.Priority, Zone: c.Zone, Label: c.Label,
		Kernel: s.a.machine.kernel, Mode: c.Mode, Tells: s.a.machine.witness != nil, Proofs: true, Checks: true,
	}
}

// allow makes the tunnel take packets for these VIPs from these balancers, nil
// for those that there are, and from the session's. It returns them all.
func (s *session) allow(vips, balancers []netip.Addr) []netip.Addr {
	if balancers == nil {
		balancers = s.a.tunnel.allow.Load().balancers
	}
	if !slices.Contains(balancers, s.peer) {
		balancers = append(slices.Clone(balancers), s.peer)
	}
	s.a.tunnel.allow.Store(&peers{balancers: balancers, vips: vips})
	if w := s.a.machine.witness; w != nil {
		w.SetVIPs(vips)
	}
	return balancers
}

// prove answers a sanity datagram, once: it may come several times.
func (s *session) prove(nonce string) error {
	if nonce == s.nonce || s.registered {
		return nil
	}
	s.nonce = nonce
	return s.send(protocol.Request{Verb: protocol.Sane, Nonce: nonce}, protocol.Registered, s.welcome)
}

// newTag returns a word that nobody guesses.
func newTag() string {
	var b [12]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// welcome sets up what REGISTERED offers. The first HEALTH that packets may
// come is sent when it is.
func (s *session) welcome(reply protocol.Reply, err error) error {
	if err != nil || s.stopping {
		return err
	}
	if err := s.accept(offer{}, reply); err != nil {
		return err
	}
	s.registered, s.checks, s.updates = true, s.offer.checks, reply.Options["update"] == "yes"
	s.a.log.Info("registered", "balancer", s.peer, "data_ip", s.a.dataIP, "vips", few(s.offer.vips), "balancers", few(s.offer.balancers))
	s.tellConnections(s.server, reply.Options["connections"])
	s.become(s.a.admin)
	for _, v := range verbs { // the balancer may not know state=
		if v.to != s.a.admin || v.to == Active {
			continue
		}
		if err := s.send(protocol.Request{Verb: v.ask, Name: s.a.config().Name}, v.answer, nil); err != nil {
			return err
		}
	}
	return nil
}

// heartbeat sends HEALTH once the backend is registered, and how its services do
// before.
func (s *session) heartbeat() error {
	if !s.registered {
		return nil
	}
	if err := s.tellServices(); err != nil {
		return err
	}
	req := protocol.Request{Verb: protocol.Health, Code: s.code(), Load: load(), Offer: s.ready, Echoes: s.echoes()}
	return s.send(req, protocol.HealthAck, s.acknowledged)
}

// echoes returns the proofs of the data path that have come since the last HEALTH.
func (s *session) echoes() (out []protocol.Echo) {
	for len(out) < protocol.MaxEchoes {
		select {
		case p := <-s.a.tunnel.proofs:
			if protocol.ValidName(p.nonce) { // else it is not the balancer's, and no word
				out = append(out, protocol.Echo{Nonce: p.nonce, Held: min(time.Since(p.at), time.Minute)})
			}
		default:
			return out
		}
	}
	return out
}

// acknowledged takes what a HEALTHACK carries.
func (s *session) acknowledged(r protocol.Reply, err error) error {
	if err != nil {
		return err
	}
	s.a.hear(r.Options["admin"])
	if !s.stopping && s.offer.changes(r.Options) {
		if err := s.change(r); err != nil {
			return err
		}
	}
	if un := r.Options["state"] == core.Unreachable.String(); un != s.unreachable {
		s.unreachable = un
		if un {
			s.a.log.Warn("balancer's packets do not arrive here: no new flows come (is UDP to the tunnel port let through?)", "balancer", s.peer, "port", s.a.config().Port)
		} else {
			s.a.log.Info("balancer's packets arrive again")
		}
	}
	if r.Options["state"] != "drained" || s.a.State() != Draining {
		return nil
	}
	s.a.setState(Drained)
	if s.stopping {
		return s.deregister()
	}
	return nil
}
