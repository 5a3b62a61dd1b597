package fastpath

import (
	"errors"
	"fmt"
	"math/bits"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/cilium/ebpf"
)

// What the programs need to place flows themselves: which ports are services,
// where their lookup tables send a flow, and whether the daemon is alive.

// Silence is how long the daemon may be silent before the programs place new
// flows themselves; Beat has to come more often.
const Silence = 2 * time.Second

// setConstants fits the programs to this kernel and these VIPs.
func (b *Balancer) setConstants(spec *ebpf.CollectionSpec) error {
	_, seed, err := vipTable(b.vips)
	if err != nil {
		return err
	}
	return errors.Join(
		spec.Variables["vip_seed"].Set(seed),
		spec.Variables["silence"].Set(b.clock.jiffies(Silence)),
		spec.Variables["window"].Set(b.windowBits()))
}

// windowBits is log2 of the jiffies to which a service's budget is divided: an
// eighth of a second, or a little less.
func (b *Balancer) windowBits() uint32 { return uint32(bits.Len64(max(b.clock.hz/8, 1)) - 1) }

// Beat tells the programs that the daemon is alive and takes new flows.
func (b *Balancer) Beat() error {
	if err := b.objs.Heartbeat.Put(uint32(0), b.clock.now()); err != nil {
		return fmt.Errorf("fast path: heartbeat: %w", err)
	}
	return nil
}

// setServices tells the programs what is balanced. A port range is an entry
// for each port, all ports are one.
func (b *Balancer) setServices() error {
	for _, s := range b.cfg.Services {
		if err := b.setService(s); err != nil {
			return fmt.Errorf("service %s: %w", s.Name, err)
		}
	}
	return b.setVIPs()
}

func (b *Balancer) setService(s *core.Service) error {
	if err := b.objs.Rules.Put(uint32(s.Index), b.rule(s, false)); err != nil {
		return err
	}
	for _, proto := range s.Protos {
		for _, r := range s.Ports {
			if r == core.AllPorts {
				r = core.PortRange{}
			}
			for port := int(r.First); port <= int(r.Last); port++ {
				k := balanceServiceKey{Vip: b.vips[s.VIP.As16()], Port: network(uint16(port)), Proto: proto}
				if err := b.objs.Services.Put(&k, uint32(s.Index)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (b *Balancer) rule(s *core.Service, table bool) *balanceService {
	r := &balanceService{Seed: s.Seed}
	if table {
		r.Table = 1
	}
	if s.Upcalls > 0 {
		r.Budget = uint32(max(uint64(s.Upcalls)<<b.windowBits()/b.clock.hz, 1))
	}
	return r
}

// SetLookup leaves a pool's lookup table in the kernel, the policy's if it has
// one: then new flows are placed by it without an upcall. It writes the slots
// that changed.
func (b *Balancer) SetLookup(p *core.Pool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.setSlots(p)
	if err == nil {
		err = b.objs.Rules.Put(uint32(p.Service.Index), b.rule(p.Service, p.Table != nil))
	}
	if err != nil {
		return fmt.Errorf("fast path: lookup table of %s: %w", p.Service.Name, err)
	}
	return nil
}

func (b *Balancer) setSlots(p *core.Pool) error {
	lookup := p.Lookup.Slots()
	slots := lookup
	if p.Table != nil {
		slots = p.Table.Slots()
	}
	written := b.written[p.Service.Index]
	if written == nil {
		written = make([]uint32, len(slots)) // as the map is made
		b.written[p.Service.Index] = written
	}
	var keys, values []uint32
	for i, s := range slots {
		if s == core.NoBackend { // the policy left it to us
			s = lookup[i]
		}
		v := uint32(0)
		if s != core.NoBackend && p.Members[s].Handle.Slot() < MaxBackends {
			v = uint32(p.Members[s].Handle.Slot()) + 1
		}
		if v != written[i] {
			keys, values = append(keys, uint32(p.Service.Index)*core.LookupSize+uint32(i)), append(values, v)
			written[i] = v
		}
	}
	if len(keys) == 0 {
		return nil
	}
	_, err := b.objs.Lookup.BatchUpdate(keys, values, nil)
	if !errors.Is(err, ebpf.ErrNotSupported) { // before 5.13
		return err
	}
	for i := range keys {
		if err := b.objs.Lookup.Put(keys[i], values[i]); err != nil {
			return err
		}
	}
	return nil
}

// counterNames are what Counters tells, in the order of the program.
var counterNames = [...]string{
	"kernel_forwarded", "xdp_forwarded", "kernel_upcalls", "kernel_placed", "kernel_over_budget", "kernel_slow",
	"kernel_too_long", "kernel_stale", "kernel_paused", "kernel_no_backend", "kernel_flows_full", "kernel_failed",
}

// Counters adds the programs' counters to a map by name. What XDP forwarded is
// in kernel_forwarded, too.
func (b *Balancer) Counters(m map[string]uint64) {
	for i, name := range counterNames {
		var cpus []uint64
		if b.objs.Counters.Lookup(uint32(i), &cpus) != nil {
			continue
		}
		for _, n := range cpus {
			m[name] += n
		}
	}
	m[counterNames[0]] += m[counterNames[1]]
}
