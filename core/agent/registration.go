package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/forward"
	"github.com/caplance/caplance/core/registry"
)

// minMTU is the least that IPv4 demands of every path (RFC 791 §3.2).
const minMTU = 576

// maxStrangers nonces from unknown addresses are answered in one session: the
// balancer's datagrams may leave by another address than its TCP, but who else
// sends some must not bring us to three INVALID in a row.
const maxStrangers = 2

// register sends REGISTER, which is answered by the sanity datagram. Packets of
// flows from an earlier session are taken all along.
func (s *session) register() error {
	select {
	case <-s.a.tunnel.nonces: // of an earlier session
	default:
	}
	s.allow(true, s.a.tunnel.allow.Load().vips, nil)
	wish := map[State]core.BackendState{Paused: core.Paused, Draining: core.Draining}[s.a.wish]
	return s.comm.WriteLine(registry.Request{
		Verb: registry.Register, Name: s.a.cfg.Name, Addr: s.a.dataIP,
		Services: s.a.cfg.Services, Weight: s.a.cfg.Weight,
		MaxFlows: s.a.cfg.MaxFlows, Priority: s.a.cfg.Priority, Zone: s.a.cfg.Zone, Label: s.a.cfg.Label,
		Kernel: s.a.kernel != nil, Mode: s.a.cfg.Mode, Version: 2, State: wish,
	}.String())
}

func (s *session) allow(anyNonce bool, vips, balancers []netip.Addr) {
	if balancers == nil {
		balancers = s.a.tunnel.allow.Load().balancers
	}
	if !slices.Contains(balancers, s.peer) {
		balancers = append(slices.Clone(balancers), s.peer)
	}
	s.a.tunnel.allow.Store(&peers{balancers: balancers, vips: vips, anyNonce: anyNonce})
	if s.a.kernel == nil {
		return
	}
	if err := s.a.kernel.Accept(vips, balancers); err != nil {
		s.a.log.Warn("packets come up to userspace", "err", err)
	}
}

// prove answers a sanity datagram, once: it may come several times.
func (s *session) prove(d sanity) error {
	if d.nonce == s.nonce || s.registered || !d.known && s.strangers >= maxStrangers {
		return nil
	}
	s.nonce = d.nonce
	if !d.known {
		s.strangers++
	}
	return s.send(registry.Request{Verb: registry.Sane, Nonce: d.nonce}, registry.Registered, func(r registry.Reply, err error) error {
		if err != nil && !d.known && r.Verb == registry.Invalid {
			s.a.log.Warn("sanity datagram was not the balancer's", "err", err)
			return nil
		}
		return s.welcome(r, err)
	})
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
	mtu, err := s.mtu(reply.Options["mtu"], reply.Options["mode"] == core.ModeDirect.String())
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
// it allows, in bytes of a client's packet.
func (s *session) mtu(said string, direct bool) (int, error) {
	path, err := forward.PathTo(s.peer)
	if direct {
		path.MTU = path.LinkMTU
	}
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
