package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/forward"
	"github.com/caplance/caplance/core/registry"
)

// minMTU is the least that IPv4 demands of every path (RFC 791 §3.2).
const minMTU = 576

// register sends REGISTER and, until the sanity datagram is there, takes it
// from anybody: the nonce shows who sent it. Packets of flows from an earlier
// session are taken all along.
func (s *session) register() error {
	select {
	case <-s.a.tunnel.nonces: // of an earlier session
	default:
	}
	s.allow(true, s.a.tunnel.allow.Load().vips, nil)
	wish := map[State]core.BackendState{Paused: core.Paused, Draining: core.Draining}[s.a.wish]
	return s.send(registry.Request{
		Verb: registry.Register, Name: s.a.cfg.Name, Addr: s.a.dataIP,
		Services: s.a.cfg.Services, Weight: s.a.cfg.Weight, Version: 2, State: wish,
	}, registry.Registered, s.welcome)
}

func (s *session) allow(anyNonce bool, vips, balancers []netip.Addr) {
	if balancers == nil {
		balancers = s.a.tunnel.allow.Load().balancers
	}
	if !slices.Contains(balancers, s.peer) {
		balancers = append(slices.Clone(balancers), s.peer)
	}
	s.a.tunnel.allow.Store(&peers{balancers: balancers, vips: vips, anyNonce: anyNonce})
}

// prove answers a sanity datagram, once: it may come several times.
func (s *session) prove(nonce string) error {
	if nonce == s.nonce {
		return nil
	}
	s.nonce = nonce
	return s.comm.WriteLine(registry.Request{Verb: registry.Sane, Nonce: nonce}.String())
}

// welcome sets up what REGISTERED says, and then tells with the first HEALTH
// that packets may come.
func (s *session) welcome(reply registry.Reply, err error) error {
	if err != nil || s.stopping {
		return err
	}
	vips, err := addrs(reply.Options["vips"])
	if err != nil {
		return err
	}
	balancers, err := addrs(reply.Options["balancers"])
	if err != nil {
		return err
	}
	if len(vips) == 0 {
		vips = s.a.cfg.VIPs
	}
	if len(vips) == 0 {
		s.a.log.Warn("balancer names no VIPs: none of its services is ours, or it is an old one and vips must be set")
	}
	mtu, err := s.mtu(reply.Options["mtu"])
	if err != nil {
		return err
	}
	if err := s.a.machine.Serve(vips, mtu); err != nil {
		return err
	}
	s.allow(false, vips, balancers)
	s.registered = true
	s.a.log.Info("registered", "balancer", s.peer, "data_ip", s.a.dataIP, "vips", vips, "mtu", mtu)
	s.become(s.a.wish)
	for _, v := range verbs { // the balancer may not know state=
		if v.to != s.a.wish || v.to == Active {
			continue
		}
		if err := s.send(registry.Request{Verb: v.ask, Name: s.a.cfg.Name}, v.answer, nil); err != nil {
			return err
		}
	}
	return s.heartbeat()
}

// mtu is the smaller one of what the balancer says and what our own route to
// it allows, in bytes of an inner packet.
func (s *session) mtu(said string) (int, error) {
	path, err := forward.PathTo(s.peer)
	if said == "" {
		return path.MTU, err
	}
	n, convErr := strconv.Atoi(said)
	if convErr != nil || n < minMTU || n > 1<<16 {
		return 0, fmt.Errorf("balancer %s: mtu %q is not between %d and %d", s.peer, said, minMTU, 1<<16)
	}
	if err == nil {
		n = min(n, path.MTU)
	}
	return n, nil
}

func addrs(list string) (out []netip.Addr, err error) {
	if list == "" {
		return nil, nil
	}
	for word := range strings.SplitSeq(list, ",") {
		a, err := netip.ParseAddr(word)
		if err != nil {
			return nil, fmt.Errorf("answer of the balancer: %w", err)
		}
		out = append(out, a.Unmap())
	}
	return out, nil
}

// heartbeat sends HEALTH once the backend is registered.
func (s *session) heartbeat() error {
	if !s.registered {
		return nil
	}
	req := registry.Request{Verb: registry.Health, Code: s.a.code, Load: load()}
	return s.send(req, registry.HealthAck, func(r registry.Reply, err error) error {
		if err != nil || r.Options["state"] != "drained" || s.a.State() != Draining {
			return err
		}
		s.a.setState(Drained)
		if s.stopping {
			return s.goodbye()
		}
		return nil
	})
}

// leave begins the end of a stopping agent.
func (s *session) leave() error {
	s.stopping = true
	if s.nonce == "" {
		return context.Canceled
	}
	if state := s.a.State(); !s.registered || !s.a.cfg.Drain || state == Paused || state == Drained {
		return s.goodbye()
	}
	s.a.setState(Draining)
	s.setPace(min(drainPace, s.a.cfg.Heartbeat))
	s.farewell = time.After(s.a.cfg.StopTimeout)
	return s.send(registry.Request{Verb: registry.Drain, Name: s.a.cfg.Name}, registry.Draining, nil)
}

// goodbye sends DEREGISTER; when it is due again, the answer is given up.
func (s *session) goodbye() error {
	if s.a.State() == Deregistering {
		return errors.New("DEREGISTER was not answered")
	}
	s.a.setState(Deregistering)
	s.farewell = time.After(lastWords)
	return s.send(registry.Request{Verb: registry.Deregister, Name: s.a.cfg.Name}, registry.Deregistered, func(registry.Reply, error) error {
		s.over = true
		return nil
	})
}
