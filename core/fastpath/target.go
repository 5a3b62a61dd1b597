package fastpath

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/caplance/caplance/core"
	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// How a target's packets find its link-layer address (enum in flows.h).
const (
	resolved = 1
	bare     = 2
)

// errFull is what a hash map without room says.
const errFull = syscall.Errno(unix.E2BIG)

// Target is one membership of a backend that flows may be sent to.
type Target struct {
	Handle core.Handle
	Direct bool       // to the backend's MAC, not through the tunnel
	Addr   netip.Addr // data IP
	Source netip.Addr // of the outer packets
	Link   int        // index of the link to send by
	MTU    int        // longest packet of a client, bytes
	Port   uint16     // of the tunnel
	Paused bool
	Tells  bool // its agent tells which connections are there
	Shut   bool // it gets no new flows

	// The next hop's MAC and ours on Link; without them the kernel looks them
	// up for each packet.
	MAC, LinkMAC net.HardwareAddr
	Bare         bool // Link has no MACs
}

// targetOf returns a member as the kernel sends to it; ok is false for one that
// only userspace can send to.
func targetOf(m *core.Member, port uint16) (t Target, ok bool) {
	p := m.Path
	if p == nil || !m.Kernel() || !p.Source.IsValid() || p.Link == 0 {
		return t, false
	}
	t = Target{
		Handle: m.Handle, Direct: m.Mode == core.ModeDirect, Addr: m.Addr, Source: p.Source,
		Link: p.Link, MTU: m.MTU, Port: port, Paused: m.State == core.Paused, Bare: p.Bare,
		Tells: m.Tells, Shut: m.State != core.Active && !m.Forced,
	}
	if p.MAC != (core.MAC{}) {
		t.MAC, t.LinkMAC = p.MAC[:], p.LinkMAC[:]
	}
	return t, true
}

func (t *Target) value() balanceTarget {
	v := balanceTarget{
		Handle: uint32(t.Handle), Paused: flag(t.Paused), Direct: flag(t.Direct), V6: flag(t.Addr.Is6()),
		Tells: flag(t.Tells), Shut: flag(t.Shut), Port: network(t.Port), Mtu: uint32(t.MTU), Ifindex: uint32(t.Link), Addr: address(t.Addr), Src: address(t.Source),
	}
	if len(t.MAC) == 6 && len(t.LinkMAC) == 6 {
		v.Resolved, v.Dmac, v.Smac = resolved, [6]uint8(t.MAC), [6]uint8(t.LinkMAC)
	}
	if t.Bare {
		v.Resolved = bare
	}
	return v
}

// readTargets learns what a predecessor left.
func (b *Balancer) readTargets() error {
	b.targets = make([]balanceTarget, b.maps().Targets.MaxEntries())
	if !b.Inherited {
		return nil
	}
	for slot := range b.targets {
		if err := b.maps().Targets.Lookup(uint32(slot), &b.targets[slot]); err != nil {
			return fmt.Errorf("fast path: targets: %w", err)
		}
	}
	return nil
}

// SetTarget adds a target or changes it; flows to an earlier membership in the
// same slot are passed to userspace from then on.
func (b *Balancer) SetTarget(t Target) error {
	slot := t.Handle.Slot()
	if slot >= b.maps().Targets.MaxEntries() {
		return fmt.Errorf("fast path: backend %v: more memberships than datapath.max_backends (%d)", t.Addr, b.maps().Targets.MaxEntries())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for int(slot) >= len(b.targets) {
		b.targets = append(b.targets, balanceTarget{})
	}
	old, v := b.targets[slot], t.value()
	if old == v {
		return nil
	}
	if old.Handle != v.Handle {
		if err := b.maps().TargetStats.Put(slot, make([]balanceTargetStat, ebpf.MustPossibleCPU())); err != nil {
			return fmt.Errorf("fast path: target %v: %w", t.Addr, err)
		}
	}
	if err := b.maps().Targets.Put(slot, v); err != nil {
		return fmt.Errorf("fast path: target %v: %w", t.Addr, err)
	}
	b.targets[slot] = v
	return nil
}

// targetHandles returns those of the targets, and whether they tell of their
// connections, by slot.
func (b *Balancer) targetHandles() (handles []core.Handle, tells []bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	handles, tells = make([]core.Handle, len(b.targets)), make([]bool, len(b.targets))
	for i := range b.targets {
		handles[i], tells[i] = core.Handle(b.targets[i].Handle), b.targets[i].Tells != 0
	}
	return handles, tells
}

// RemoveTarget forgets a membership; its flows are passed to userspace.
func (b *Balancer) RemoveTarget(h core.Handle) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	slot := h.Slot()
	if int(slot) >= len(b.targets) || b.targets[slot].Handle != uint32(h) {
		return nil // its slot belongs to another one already
	}
	if err := b.maps().Targets.Put(slot, balanceTarget{}); err != nil {
		return fmt.Errorf("fast path: target: %w", err)
	}
	b.targets[slot] = balanceTarget{}
	return nil
}

// pruneTargets removes the targets that are in none of the pools: also those of
// a predecessor that have not come back, and of members that only userspace
// can send to.
func (b *Balancer) pruneTargets(want *core.Snapshot) error {
	wanted := make([]core.Handle, 0, len(b.targets))
	want.Pools.Each(func(p *core.Pool) {
		for i := range p.Members {
			if m := &p.Members[i]; m.Kernel() {
				wanted = append(wanted, m.Handle)
			}
		}
	})
	slices.Sort(wanted)
	var errs []error
	handles, _ := b.targetHandles()
	for _, h := range handles {
		if _, ok := slices.BinarySearch(wanted, h); h != 0 && !ok {
			errs = append(errs, b.RemoveTarget(h))
		}
	}
	return errors.Join(errs...)
}
