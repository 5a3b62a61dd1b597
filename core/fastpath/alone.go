package fastpath

import (
	"errors"
	"fmt"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/cilium/ebpf"
)

// What the program needs while the daemon is dead: which ports are services,
// and where their lookup tables send a flow.

// Silence is how long the daemon may be silent before the program places new
// flows itself; Beat has to come more often.
const Silence = 2 * time.Second

// Beat tells the program that the daemon is alive and takes new flows.
func (b *Balancer) Beat() error {
	if err := b.objs.Heartbeat.Put(uint32(0), uint64(now())); err != nil {
		return fmt.Errorf("fast path: heartbeat: %w", err)
	}
	return nil
}

// setServices tells the program what to place. A port range is an entry for
// each port, all ports are one.
func (b *Balancer) setServices() error {
	for _, s := range b.cfg.Services {
		v := balanceService{Seed: s.Seed, Index: uint32(s.Index)}
		for _, proto := range s.Protos {
			for _, r := range s.Ports {
				if r == core.AllPorts {
					r = core.PortRange{}
				}
				for port := int(r.First); port <= int(r.Last); port++ {
					k := balanceServiceKey{Vip: address(s.VIP), Port: network(uint16(port)), Proto: proto}
					if err := b.objs.Services.Put(&k, &v); err != nil {
						return fmt.Errorf("service %s: %w", s.Name, err)
					}
				}
			}
		}
	}
	return nil
}

// SetLookup leaves a pool's lookup table, the policy's if it has one, for when
// the daemon is dead. It writes the slots that changed.
func (b *Balancer) SetLookup(p *core.Pool) error {
	slots := p.Lookup.Slots()
	if p.Table != nil {
		slots = p.Table.Slots()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	written := b.written[p.Service.Index]
	if written == nil {
		written = make([]uint32, len(slots)) // as the map is made
		b.written[p.Service.Index] = written
	}
	var keys, values []uint32
	for i, s := range slots {
		v := uint32(0)
		if s != core.NoBackend {
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
	if errors.Is(err, ebpf.ErrNotSupported) { // before 5.13
		for i := range keys {
			if err = b.objs.Lookup.Put(keys[i], values[i]); err != nil {
				break
			}
		}
	}
	if err != nil {
		return fmt.Errorf("fast path: lookup table of %s: %w", p.Service.Name, err)
	}
	return nil
}

// Placed is a flow in the kernel's table.
type Placed struct {
	Key     core.FlowKey
	Service uint16
	Backend core.Handle
	Idle    time.Duration
}

// Each shows every flow in the kernel's table; a successor adopts them. Flows
// that come or go meanwhile may be missed or shown twice.
func (b *Balancer) Each(show func(Placed)) error {
	var k balanceFlowKey
	var v balanceFlow
	it := b.objs.Flows.Iterate()
	for it.Next(&k, &v) {
		show(Placed{
			Key: core.FlowKey{
				Src: octets(k.Src), Dst: octets(k.Dst), SrcPort: network(k.Sport), DstPort: network(k.Dport), Proto: k.Proto,
			},
			Service: uint16(v.Target >> 16), Backend: core.Handle(v.Handle),
			Idle: max(0, now()-time.Duration(v.Seen)),
		})
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("fast path: flows: %w", err)
	}
	return nil
}

// Keep removes the targets for which keep says no: those of a predecessor that
// have not come back.
func (b *Balancer) Keep(keep func(service uint16, h core.Handle) bool) error {
	var key uint32
	var v balanceTarget
	var gone []uint32
	it := b.objs.Targets.Iterate()
	for it.Next(&key, &v) {
		if !keep(uint16(key>>16), core.Handle(v.Handle)) {
			gone = append(gone, key)
		}
	}
	for _, key := range gone {
		_ = b.objs.Targets.Delete(key)
		_ = b.objs.Sums.Delete(key)
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("fast path: targets: %w", err)
	}
	return nil
}
