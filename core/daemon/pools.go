package daemon

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/datapath"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/forward"
	"github.com/caplance/caplance/core/registry"
)

// pools turns the registry's list of backends into the services' pools and
// publishes them to the workers.
type pools struct {
	services []*core.Service
	out      *datapath.Pools
	ledger   *datapath.Ledger
	memory   *memory
	log      *slog.Logger

	mu       sync.Mutex
	builders []*core.PoolBuilder
	backends []core.Backend
	paths    map[netip.Addr]forward.Path
	kernel   *fastpath.Balancer         // nil: userspace
	port     uint16                     // of the tunnel
	macs     map[netip.Addr]forward.MAC // of the next hops, by backend; what is missing is not known
	attached atomic.Bool                // the kernel works by our pools, not a predecessor's

	rebuild []chan struct{} // by Service.Index: a table is to be built
}

func newPools(services []*core.Service, ledger *datapath.Ledger, m *memory, log *slog.Logger) *pools {
	p := &pools{
		services: services, out: datapath.NewPools(services), ledger: ledger, memory: m, log: log,
		paths: map[netip.Addr]forward.Path{}, macs: map[netip.Addr]forward.MAC{},
	}
	for _, s := range services {
		b := core.NewPoolBuilder(s)
		b.Restore(m.old[s.Name].Seats)
		p.builders = append(p.builders, b)
		p.rebuild = append(p.rebuild, make(chan struct{}, 1))
	}
	return p
}

// change is the registry's OnChange.
func (p *pools) change(backends []core.Backend) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.backends = slices.Clone(backends)
	p.publish()
}

// publish builds every service's pool anew, and only then publishes them: a
// backend leaves all its services at once.
func (p *pools) publish() {
	for i := range p.backends {
		b := &p.backends[i]
		path := p.path(b.Addr)
		b.TunnelMTU, b.LinkMTU, b.OnLink = path.MTU, path.LinkMTU, path.OnLink(b.Addr)
	}
	p.refreshMACs()
	p.countKernel() // newcomers start at the level of the others
	built := make([]*core.Pool, len(p.services))
	for i, s := range p.services {
		built[i] = p.builders[i].Build(p.backends, p.memory.before(s.Name)).Inherit(p.out.Of(s.Index))
		p.memory.observe(built[i])
	}
	for i, pool := range built {
		was := p.out.Of(uint16(i))
		p.setTargets(pool)
		p.out.Publish(pool)
		p.dropTargets(was, pool)
		p.tables(uint16(i))
	}
	p.countKernel()
	if err := p.memory.save(); err != nil {
		p.log.Warn("pools not saved: a restart may lose flows", "err", err)
	}
}

// path is how tunnel packets get to addr, as last seen. An unroutable backend
// keeps its last path, or the smallest one every IPv6 link has.
func (p *pools) path(addr netip.Addr) forward.Path {
	if path, ok := p.paths[addr]; ok {
		return path
	}
	path, err := forward.PathTo(addr)
	if err != nil {
		p.log.Warn("backend unroutable", "addr", addr, "err", err)
		return forward.Path{MTU: 1280 - forward.Overhead(addr), LinkMTU: 1280}
	}
	p.paths[addr] = path
	return path
}

// watch looks after what changes without the registry: MACs, path MTUs, and the
// end of the time in which backends of a predecessor are waited for.
func (p *pools) watch(ctx context.Context) error {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := p.look(n); err != nil {
			return err
		}
	}
}

// look does the n-th round of watch.
func (p *pools) look(n int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.countKernel()
	if err := p.takeOver(); err != nil {
		return err
	}
	if p.refreshMACs() {
		for _, s := range p.services {
			p.setTargets(p.out.Of(s.Index))
		}
	}
	p.askNeighbours(n%askAgain == 0)
	if n%4 == 0 && (p.refreshPaths() || p.memory.fade(time.Now()) || p.ramping()) {
		p.publish()
	}
	return nil
}

// ramping says whether a backend is in its slow start, or was a moment ago.
func (p *pools) ramping() bool {
	for _, s := range p.services {
		for _, m := range p.out.Of(s.Index).Members {
			if m.Ramp < core.FullRamp {
				return true
			}
		}
	}
	return false
}

// refreshPaths asks the routing table again and says whether a path changed.
func (p *pools) refreshPaths() (changed bool) {
	paths := map[netip.Addr]forward.Path{}
	for i := range p.backends {
		addr := p.backends[i].Addr
		old, known := p.paths[addr]
		path, err := forward.PathTo(addr)
		if err != nil {
			if known {
				paths[addr] = old
			}
			continue
		}
		if known && path != old {
			p.log.Info("path to backend changed", "addr", addr, "tunnel_mtu", path.MTU, "source", path.Source)
		}
		changed = changed || path != old
		paths[addr] = path
	}
	p.paths = paths
	return changed
}

// offer is what a backend's agent sets up.
func (p *pools) offer(b core.Backend) registry.Offer {
	p.mu.Lock()
	path := p.path(b.Addr)
	p.mu.Unlock()
	b.LinkMTU, b.OnLink = path.LinkMTU, path.OnLink(b.Addr)
	o := registry.Offer{MTU: path.MTU, Direct: true}
	if path.Source.IsValid() {
		o.Balancers = []netip.Addr{path.Source}
	}
	for _, s := range p.services {
		if !b.Serves(s.Name) {
			continue
		}
		if !slices.Contains(o.VIPs, s.VIP) {
			o.VIPs = append(o.VIPs, s.VIP)
		}
		o.Direct = o.Direct && b.ModeIn(s) == core.ModeDirect
	}
	if o.Direct {
		o.MTU = path.LinkMTU
	}
	return o
}

// countKernel notes what the kernel forwarded.
func (p *pools) countKernel() {
	if p.kernel == nil {
		return
	}
	for _, s := range p.services {
		p.ledger.Kernel(p.out.Of(s.Index), func(h core.Handle) (packets, bytes, placed uint64) {
			sum := p.kernel.Total(s.Index, h)
			return sum.Packets, sum.Bytes, sum.ByTable + sum.ByFallback
		})
	}
}

// active is the number of flows of a backend in all its services.
func (p *pools) active(name string) int {
	n := int64(0)
	for _, s := range p.services {
		for _, m := range p.out.Of(s.Index).Members {
			if m.Name == name {
				n += p.ledger.Total(s.Index, m.Handle).Active
			}
		}
	}
	return int(max(n, 0))
}
