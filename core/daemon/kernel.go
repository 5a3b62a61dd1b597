package daemon

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/forward"
)

// openKernel goes down to the kernel's rung, if the configuration wants that
// and the kernel has it; nil is userspace.
func (s *Server) openKernel(addrs []address) (*fastpath.Balancer, error) {
	d := s.cfg.Datapath
	if d.Rung == config.Userspace {
		s.rung = "userspace (as configured)"
		return nil, nil
	}
	links := d.Links
	if len(links) == 0 {
		links = ethernet(addrs)
	}
	cfg := fastpath.Config{
		Links: links, XDP: d.Rung == config.XDP, Flows: d.Flows, Timeouts: d.Timeouts, Services: s.cfg.Services, StateDir: s.cfg.StateDir,
	}
	b, err := fastpath.OpenBalancer(cfg)
	if err == nil && b.Inherited && !s.pools.memory.tells(s.cfg.Services) {
		s.log.Warn("flows that a predecessor left in the kernel are dropped: its services were others, or it is long ago")
		if err = b.Close(); err == nil {
			b, err = fastpath.OpenBalancer(cfg)
		}
	}
	if err == nil {
		s.rung = map[config.Rung]string{
			config.Auto: "tc (xdp has to be asked for)", config.TC: "tc (as configured)", config.XDP: "xdp",
		}[d.Rung]
		return b, nil
	}
	if d.Rung != config.Auto {
		return nil, fmt.Errorf("rung %s: %w", d.Rung, err)
	}
	s.rung = fmt.Sprintf("userspace (%v)", err)
	s.log.Warn("established flows stay in userspace", "why", err)
	return nil, nil
}

// ethernet are the Ethernet links that have an address.
func ethernet(addrs []address) []string {
	var out []string
	seen := map[string]bool{}
	for _, a := range addrs {
		if l, err := net.InterfaceByName(a.link); err == nil && len(l.HardwareAddr) == 6 && !seen[a.link] {
			seen[a.link] = true
			out = append(out, a.link)
		}
	}
	return out
}

// target is a member as the kernel sends to it.
func (p *pools) target(s *core.Service, m *core.Member) fastpath.Target {
	path := p.path(m.Addr)
	t := fastpath.Target{
		Service: s.Index, Handle: m.Handle, Direct: m.Mode == core.ModeDirect, Addr: m.Addr, Source: path.Source,
		Link: path.Link, MTU: m.MTU, Port: p.port, Paused: m.State == core.Paused,
	}
	if mac := p.macs[m.Addr]; mac != (forward.MAC{}) {
		t.MAC, t.LinkMAC = mac[:], path.LinkMAC[:]
	}
	return t
}

// setTargets tells the kernel of a pool's members before the workers know of
// them.
func (p *pools) setTargets(pool *core.Pool) {
	if p.kernel == nil {
		return
	}
	for i := range pool.Members {
		m := &pool.Members[i]
		t := p.target(pool.Service, m)
		if !m.Kernel() || !t.Source.IsValid() || t.Link == 0 {
			continue // its agent works in userspace, or it is unroutable: so do its flows
		}
		if err := p.kernel.SetTarget(t); err != nil {
			p.log.Warn("flows stay in userspace", "backend", m.Name, "err", err)
		}
	}
	p.setLookup(pool)
}

// setLookup gives a pool's lookup table to the kernel: for when this process is
// dead, and for policies that fill it.
func (p *pools) setLookup(pool *core.Pool) {
	if p.kernel == nil {
		return
	}
	if err := p.kernel.SetLookup(pool); err != nil {
		p.log.Warn("new flows would not survive the balancer's death", "err", err)
	}
}

// dropTargets takes from the kernel the members of was that are not in now.
func (p *pools) dropTargets(was, now *core.Pool) {
	if p.kernel == nil {
		return
	}
	for _, m := range was.Members {
		if _, ok := now.Find(m.Handle); ok {
			continue
		}
		if err := p.kernel.RemoveTarget(was.Service.Index, m.Handle); err != nil {
			p.log.Warn("kernel keeps a backend that left", "backend", m.Name, "err", err)
		}
	}
}

// takeOver puts the kernel to work by our pools: at once where no flows are
// left in it, else when all backends of the predecessor are back or given up;
// until then its program goes on.
func (p *pools) takeOver() error {
	if p.kernel == nil || p.attached.Load() || p.kernel.Inherited && p.memory.recovering() {
		return nil
	}
	for _, b := range p.builders {
		b.Forget()
	}
	p.publish()
	if p.kernel.Inherited {
		err := p.kernel.Keep(func(service uint16, h core.Handle) bool {
			if int(service) >= len(p.services) {
				return false
			}
			_, ok := p.out.Of(service).Find(h)
			return ok
		})
		if err != nil {
			return err
		}
		p.log.Info("flows in the kernel were taken over")
	}
	if err := p.kernel.Beat(); err != nil {
		return err
	}
	if err := p.kernel.Attach(); err != nil {
		return err
	}
	if p.kernel.Replaced {
		p.log.Warn("flows that another version left in the kernel are dropped: its maps have another layout; consistent policies keep them together")
	}
	p.attached.Store(true)
	return nil
}

// beat keeps the kernel from placing flows itself.
func (s *Server) beat(ctx context.Context) error {
	tick := time.NewTicker(fastpath.Silence / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if s.kernel != nil && s.pools.attached.Load() && !s.leaving.Load() {
			if err := s.kernel.Beat(); err != nil {
				return err
			}
		}
	}
}

// start takes over at once when there is nobody to wait for.
func (p *pools) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.takeOver()
}
