package fastpath

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/caplance/caplance/core"
	"github.com/cilium/ebpf"
)

// MaxBackends is how many backends of a service the kernel can send to; flows
// to others stay in userspace.
const MaxBackends = 1024

// Target is one membership of a backend that flows may be sent to.
type Target struct {
	Service uint16
	Handle  core.Handle
	Direct  bool       // to the backend's MAC, not through the tunnel
	Addr    netip.Addr // data IP
	Source  netip.Addr // of the outer packets
	Link    int        // index of the link to send by
	MTU     int        // longest packet of a client, bytes
	Port    uint16     // of the tunnel
	Paused  bool

	// The next hop's MAC and ours on Link; without them the kernel looks them
	// up for each packet.
	MAC, LinkMAC net.HardwareAddr
}

// targetKey is the index of a membership's slot in targets and sums.
func targetKey(service uint16, h core.Handle) uint32 {
	return uint32(service)*MaxBackends + uint32(h.Slot())
}

// membership is the inverse of targetKey, for a generation.
func membership(key uint32, gen uint16) (service uint16, h core.Handle) {
	return uint16(key / MaxBackends), core.Handle(gen)<<16 | core.Handle(key%MaxBackends)
}

func generation(h core.Handle) uint16 { return uint16(h >> 16) }

// SetTarget adds a target or changes it; flows to an earlier membership in the
// same slot are passed to userspace from then on.
func (b *Balancer) SetTarget(t Target) error {
	if int(t.Handle.Slot()) >= MaxBackends {
		return fmt.Errorf("fast path: target %v: the kernel takes %d backends of a service", t.Addr, MaxBackends)
	}
	key := targetKey(t.Service, t.Handle)
	v := balanceTarget{
		Gen: generation(t.Handle), Paused: flag(t.Paused), Direct: flag(t.Direct), V6: flag(t.Addr.Is6()),
		Port: network(t.Port), Mtu: uint32(t.MTU), Ifindex: uint32(t.Link), Addr: address(t.Addr), Src: address(t.Source),
	}
	if len(t.MAC) == 6 && len(t.LinkMAC) == 6 {
		v.Resolved, v.Dmac, v.Smac = 1, [6]uint8(t.MAC), [6]uint8(t.LinkMAC)
	}
	var old balanceTarget
	if err := b.objs.Targets.Lookup(key, &old); err == nil && old == v {
		b.setGeneration(key, v.Gen) // a predecessor's that came back
		return nil
	}
	if old.Gen != v.Gen {
		zero := make([]balanceSum, ebpf.MustPossibleCPU())
		if err := b.objs.Sums.Put(key, zero); err != nil {
			return fmt.Errorf("fast path: target %v: %w", t.Addr, err)
		}
	}
	if err := b.objs.Targets.Put(key, v); err != nil {
		return fmt.Errorf("fast path: target %v: %w", t.Addr, err)
	}
	b.setGeneration(key, v.Gen)
	return nil
}

func (b *Balancer) setGeneration(key uint32, gen uint16) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gens[key] = gen
}

// generations are those of the targets, by targetKey.
func (b *Balancer) generations() []uint16 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.gens)
}

// RemoveTarget forgets a membership; its flows are passed to userspace.
func (b *Balancer) RemoveTarget(service uint16, h core.Handle) error {
	if int(h.Slot()) >= MaxBackends {
		return nil
	}
	key := targetKey(service, h)
	var v balanceTarget
	if err := b.objs.Targets.Lookup(key, &v); err != nil || v.Gen != generation(h) {
		return nil // its slot belongs to another one already
	}
	if err := b.objs.Targets.Put(key, balanceTarget{}); err != nil {
		return fmt.Errorf("fast path: target: %w", err)
	}
	b.setGeneration(key, 0)
	return nil
}

// Keep removes the targets for which keep says no: those of a predecessor that
// have not come back.
func (b *Balancer) Keep(keep func(service uint16, h core.Handle) bool) error {
	var key uint32
	var v balanceTarget
	var errs []error
	it := b.objs.Targets.Iterate()
	for it.Next(&key, &v) {
		if v.Gen == 0 {
			continue
		}
		if service, h := membership(key, v.Gen); !keep(service, h) {
			errs = append(errs, b.RemoveTarget(service, h))
		}
	}
	if err := it.Err(); err != nil {
		errs = append(errs, fmt.Errorf("fast path: targets: %w", err))
	}
	return errors.Join(errs...)
}

// Sum is what the kernel did for a membership: what it forwarded, and the flows
// that it placed itself.
type Sum struct{ Packets, Bytes, ByTable, ByFallback uint64 }

// Total is what was forwarded to a membership, and the flows that
// the program placed there itself.
func (b *Balancer) Total(service uint16, h core.Handle) (total Sum) {
	var sums []balanceSum
	if int(h.Slot()) >= MaxBackends || b.objs.Sums.Lookup(targetKey(service, h), &sums) != nil {
		return total
	}
	for _, s := range sums {
		total.Packets += s.Packets
		total.Bytes += s.Bytes
		total.ByTable += s.ByTable
		total.ByFallback += s.ByFallback
	}
	return total
}
