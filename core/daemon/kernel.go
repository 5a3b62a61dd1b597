package daemon

import (
	"fmt"
	"net"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/fastpath"
)

// openKernel goes down to the kernel's rung, if the configuration wants that
// and the kernel has it; nil is userspace.
func (s *Server) openKernel(addrs []address) (*fastpath.Balancer, error) {
	d := s.cfg.Datapath
	if d.Rung == config.Userspace {
		s.rung = "userspace"
		return nil, nil
	}
	links := d.Links
	if len(links) == 0 {
		links = ethernet(addrs)
	}
	b, err := fastpath.OpenBalancer(links, d.Flows)
	if err == nil {
		s.rung = "tc"
		return b, nil
	}
	if d.Rung == config.TC {
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
	return fastpath.Target{
		Service: s.Index, Handle: m.Handle, Addr: m.Addr, Source: path.Source, Link: path.Link, MTU: path.MTU,
		Port: p.port, Paused: m.State == core.Paused,
	}
}

// setTargets tells the kernel of a pool's members before the workers know of
// them.
func (p *pools) setTargets(pool *core.Pool) {
	if p.kernel == nil {
		return
	}
	for i := range pool.Members {
		t := p.target(pool.Service, &pool.Members[i])
		if !t.Source.IsValid() || t.Link == 0 {
			continue // unroutable: its flows stay in userspace
		}
		if err := p.kernel.SetTarget(t); err != nil {
			p.log.Warn("flows stay in userspace", "backend", pool.Members[i].Name, "err", err)
		}
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

// countKernel notes what the kernel forwarded.
func (p *pools) countKernel() {
	if p.kernel == nil {
		return
	}
	for _, s := range p.services {
		p.ledger.Kernel(p.out.Of(s.Index), func(h core.Handle) (packets, bytes uint64) {
			return p.kernel.Total(s.Index, h)
		})
	}
}
