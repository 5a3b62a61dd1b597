package sources

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/probe"
	"github.com/caplance/caplance/core/state"
)

// static is the source of backends that the configuration names: where they are, and
// what the checks from here say of them.
type static struct {
	mu     sync.Mutex
	list   []core.Backend
	checks *probe.Runner // made by the first SetStatic

	agents []netip.Addr // addresses of the others, whose paths are watched too
}

// checker returns what checks.
func (s *Sources) checker() *probe.Runner {
	s.static.mu.Lock()
	defer s.static.mu.Unlock()
	if s.static.checks == nil {
		s.static.checks = probe.New(s.Log)
	}
	return s.static.checks
}

// SetStatic writes the backends of a configuration into the state, and has them checked
// as it says. One that is new takes no flows before its first check.
func (s *Sources) SetStatic(dr *state.Draft, cfg *config.Server) {
	checks := s.checker()
	specs, targets := make([]probe.Spec, len(cfg.Static)), make([]probe.Target, len(cfg.Static))
	next, services := make([]core.Backend, len(cfg.Static)), map[string]*core.Service{}
	for _, svc := range cfg.Services {
		services[svc.Name] = svc
	}
	for i, b := range cfg.Static {
		specs[i], next[i] = b.Check, b.Backend
		svc := services[b.Backend.Services[0]]
		targets[i] = probe.Target{Service: svc.Name, Backend: b.Backend.Name, VIP: svc.VIP, Addr: b.Backend.Addr, Ports: svc.Ports, Protos: svc.Protos}
	}
	checks.Set(specs, targets)
	s.static.mu.Lock()
	defer s.static.mu.Unlock()
	now := time.Now()
	for i := range next {
		b := &next[i]
		b.Since = now
		if j, ok := slices.BinarySearchFunc(s.static.list, b, func(o core.Backend, b *core.Backend) int { return core.CompareBackends(&o, b) }); ok && s.static.list[j].Addr == b.Addr {
			b.Since = s.static.list[j].Since // its flows stay
		}
	}
	s.static.list = next
	s.watch()
	for i := range next {
		s.setPath(dr, next[i].Addr)
	}
	dr.SetStatic(s.static.judged())
}

// followStatic checks the static backends until ctx ends, which is no error, and writes
// what is found into the state.
func (s *Sources) followStatic(ctx context.Context) error {
	checks := s.checker()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return checks.Run(ctx) })
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-checks.Changed():
			}
			_, _ = s.Store.Update("checks", func(dr *state.Draft) error {
				s.static.mu.Lock()
				defer s.static.mu.Unlock()
				dr.SetStatic(s.static.judged())
				return nil
			})
		}
	})
	return g.Wait()
}

// judged returns the backends as the checks find them. The caller holds mu.
func (s *static) judged() []core.Backend {
	out, down := slices.Clone(s.list), s.checks.Down()
	for i := range out {
		b := &out[i]
		if why, ok := down[probe.Key(b.Name, b.Services[0])]; ok {
			b.State, b.Reason = core.Unhealthy, why
		}
	}
	return out
}

// watch has the paths of all backends followed. The caller holds static.mu.
func (s *Sources) watch() {
	addrs := slices.Clone(s.static.agents)
	for i := range s.static.list {
		addrs = append(addrs, s.static.list[i].Addr)
	}
	s.Net.Watch(addrs)
}

// setPath writes how packets get to a backend, unless that is known.
func (s *Sources) setPath(dr *state.Draft, addr netip.Addr) {
	if dr.HasPath(addr) {
		return
	}
	if p, err := s.path(addr); err == nil {
		dr.SetPath(addr, p)
	} else {
		s.Log.Warn("backend unroutable", "addr", addr, "err", err)
	}
}
