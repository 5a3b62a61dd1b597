package daemon

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/ruleset"
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
	cfg := fastpath.Config{Links: links, Flows: d.Flows, Services: s.cfg.Services, StateDir: s.cfg.StateDir}
	b, err := fastpath.OpenBalancer(cfg)
	if err == nil && b.Inherited && !s.pools.memory.tells(s.cfg.Services) {
		s.log.Warn("flows that a predecessor left in the kernel are dropped: its services were others, or it is long ago")
		if err = b.Close(); err == nil {
			b, err = fastpath.OpenBalancer(cfg)
		}
	}
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
	p.setLookup(pool)
}

// setLookup leaves a pool's lookup table for when this process is dead.
func (p *pools) setLookup(pool *core.Pool) {
	if p.kernel == nil {
		return
	}
	if err := p.kernel.SetLookup(pool); err != nil {
		p.log.Warn("new flows would not survive the balancer's death", "err", err)
	}
}

// takeOver puts the kernel to work by our pools: at once where no flows are
// left in it, else when all backends of the predecessor are back or given up;
// until then its program goes on. Flows that are in the kernel get entries in
// the workers' tables.
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
	}
	if err := p.adoptAll(); err != nil { // before packets of theirs come up
		return err
	}
	if err := p.kernel.Beat(); err != nil {
		return err
	}
	if err := p.kernel.Attach(); err != nil {
		return err
	}
	p.attached.Store(true)
	return p.adoptAll() // what the predecessor's program placed meanwhile
}

// adoptAll gives the workers the flows that a predecessor left in the kernel.
func (p *pools) adoptAll() error {
	if !p.kernel.Inherited {
		return nil
	}
	var flows []fastpath.Placed
	if err := p.kernel.Each(func(f fastpath.Placed) { flows = append(flows, f) }); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	p.adopt(flows)
	p.log.Info("flows in the kernel were taken over", "flows", len(flows))
	return nil
}

// adopt gives flows that are in the kernel entries in their workers' tables.
func (s *Server) adopt(capture *ruleset.Capture, flows []fastpath.Placed) {
	const batch = 1024
	parts := make([][]fastpath.Placed, len(s.workers))
	for _, f := range flows {
		w := capture.FlowQueue(&f.Key)
		parts[w] = append(parts[w], f)
	}
	for w, part := range parts {
		for some := range slices.Chunk(part, batch) {
			err := s.inWorker(w, func() {
				for i := range some {
					s.workers[w].path.Adopt(&some[i].Key, some[i].Service, some[i].Backend, some[i].Idle)
				}
			})
			if err != nil {
				s.log.Warn("flows not taken over: they end when they close", "flows", len(some), "err", err)
			}
		}
	}
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
		if s.kernel != nil && s.pools.attached.Load() {
			if err := s.kernel.Beat(); err != nil {
				return err
			}
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

// start takes over at once when there is nobody to wait for.
func (p *pools) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.takeOver()
}
