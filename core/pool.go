package core

import (
	"cmp"
	"slices"
	"time"
)

// Member is one backend in one service's pool.
type Member struct {
	Backend
	Mode   Mode   // how packets get to it
	MTU    int    // longest packet that gets there by that mode, bytes
	ID     uint64 // BackendID(service, name)
	Ramp   uint32 // slow start: per mille of its share, 1000 is all
	Handle Handle

	Forced bool // it takes new flows though it is Unhealthy: too few others are not

	Own       BackendState // State without the operator's orders
	OwnWeight uint32       // Weight likewise
}

// Pool is the set of backends of one service at one moment: immutable,
// published with a Snapshot, read by the packet path.
type Pool struct {
	Service  *Service
	Version  uint64   // grows by one with every change
	Members  []Member // eligible ones first, each part ordered by name
	Eligible int      // Members[:Eligible] may be picked for new flows
	Panic    bool     // the health of Members is ignored
	Served   bool     // one was eligible once, in this pool or an earlier one

	Lookup  *Lookup     // the native fallback pick; nil or an earlier pool's until it is built anew
	MidFlow *LateLookup // where TCP flows without an entry belong, if not where Table or Lookup says
	Table   *Lookup     // the policy's own table, nil for policies without one

	Out []Member // held out by the operator, ordered by name: no flow is theirs, and their handles are zero

	index []int32 // open addressing by Handle.Slot: index in Members + 1, or 0
	mask  uint32
}

// NewPool returns a pool of these members, without lookup tables. It sorts
// members, which belong to the pool from then on.
func NewPool(svc *Service, version uint64, members []Member) *Pool {
	p := &Pool{Service: svc, Version: version, Members: members}
	p.panic()
	slices.SortFunc(p.Members, func(x, y Member) int {
		if ex, ey := x.eligible(), y.eligible(); ex != ey {
			if ex {
				return -1
			}
			return 1
		}
		return cmp.Compare(x.Name, y.Name)
	})
	size := 4
	for size < 2*len(members) {
		size *= 2
	}
	p.index, p.mask = make([]int32, size), uint32(size-1)
	for i := range p.Members {
		m := &p.Members[i]
		at := m.Handle.Slot() & p.mask
		for p.index[at] != 0 {
			at = (at + 1) & p.mask
		}
		p.index[at] = int32(i + 1)
		if m.eligible() {
			p.Eligible++
		}
	}
	p.Served = p.Eligible > 0
	return p
}

// panic has backends that are not well take new flows when too few are. Those whose
// agents or administrators keep them out, and those where packets do not arrive, do
// not.
func (p *Pool) panic() {
	all, well := 0, 0
	for i := range p.Members {
		switch m := &p.Members[i]; m.State {
		case Active:
			well++
			all++
		case Unhealthy, Unreachable, Lost:
			all++
		}
	}
	if well*100 >= p.Service.Panic*all {
		return
	}
	for i := range p.Members {
		if m := &p.Members[i]; m.State == Unhealthy && m.Has(p.Service.VIP) {
			m.Forced, p.Panic = true, true
		}
	}
}

// Deserted reports whether no backend is eligible, and none may be back any
// moment: those whose session broke, until their leases end.
func (p *Pool) Deserted() bool {
	return p.Eligible == 0 && !slices.ContainsFunc(p.Members, func(m Member) bool { return m.State == Lost })
}

// Find returns the index in Members of the backend that h names; ok is false
// when that membership has ended.
func (p *Pool) Find(h Handle) (index int, ok bool) {
	if p.index == nil {
		return 0, false
	}
	for at := h.Slot() & p.mask; ; at = (at + 1) & p.mask {
		i := p.index[at]
		if i == 0 {
			return 0, false
		}
		if p.Members[i-1].Handle == h {
			return int(i - 1), true
		}
	}
}

// SameMembers reports whether two pools share their members: one has other
// tables than the other, or none.
func (p *Pool) SameMembers(o *Pool) bool {
	return len(p.Members) == len(o.Members) && (len(p.Members) == 0 || &p.Members[0] == &o.Members[0])
}

// Named returns the member with a name, nil if there is none.
func (p *Pool) Named(name string) *Member {
	for _, part := range [][]Member{p.Members[:p.Eligible], p.Members[p.Eligible:]} {
		i, ok := slices.BinarySearchFunc(part, name, func(m Member, name string) int { return cmp.Compare(m.Name, name) })
		if ok {
			return &part[i]
		}
	}
	return nil
}

// Fallback returns the index of the eligible backend that hash falls to
// without a policy, or -1 if none is eligible. Until the lookup table is built
// anew, flows of backends that left are spread by the hash alone.
func (p *Pool) Fallback(hash uint64) int {
	if p.Lookup != nil {
		if i, ok := p.Find(p.Lookup.Handle(hash)); ok && i < p.Eligible {
			return i
		}
	}
	if p.Eligible == 0 {
		return -1
	}
	return int(hash % uint64(p.Eligible))
}

// ByTable returns the index of the eligible backend that the policy's table
// says; ok is false where it leaves the flow to the lookup table.
func (p *Pool) ByTable(hash uint64) (index int, ok bool) {
	i, ok := p.Find(p.Table.Handle(hash))
	return i, ok && i < p.Eligible
}

// Repeat returns the index of the backend that a TCP flow without an entry
// belongs to: policies could only guess, tables repeat themselves. It is -1
// while that backend is not there.
func (p *Pool) Repeat(hash uint64) int {
	if p.MidFlow != nil {
		if i, ok := p.Find(p.MidFlow.Handle(hash)); ok {
			return i
		}
		return -1
	}
	if p.Table != nil {
		if i, ok := p.ByTable(hash); ok {
			return i
		}
	}
	return p.Fallback(hash)
}

// Tabled reports whether the tables that Repeat asks know all that may be picked: they
// are built after the pool.
func (p *Pool) Tabled() bool {
	knows := func(l *Lookup) bool {
		for i := range p.Members[:p.Eligible] {
			if !slices.Contains(l.Handles(), p.Members[i].Handle) {
				return false
			}
		}
		return true
	}
	if p.Eligible == 0 {
		return true
	}
	return p.Lookup != nil && knows(p.Lookup) && (p.Table == nil || knows(p.Table))
}

// WithTable returns the pool with another table of the policy's.
func (p *Pool) WithTable(t *Lookup) *Pool {
	out := *p
	out.Table = t
	return &out
}

// WithLookup returns the pool with another lookup table.
func (p *Pool) WithLookup(l *Lookup) *Pool {
	out := *p
	out.Lookup = l
	return &out
}

// Candidates returns the pool's eligible backends, as NewLookup takes them.
func (p *Pool) Candidates() []Candidate {
	out := make([]Candidate, p.Eligible)
	for i := range out {
		m := &p.Members[i]
		out[i] = Candidate{ID: m.ID, Weight: m.Weight, Index: uint16(i), Handle: m.Handle}
	}
	return out
}

// Kernel reports whether the kernel may forward to the backend: its agent must
// be able to take super-packets and unfinished checksums out of a tunnel.
func (m *Member) Kernel() bool { return m.KernelDecap || m.Mode == ModeDirect }

func (m *Member) eligible() bool { return (m.State == Active || m.Forced) && m.Weight > 0 }

// NewMember returns a backend's membership in a service.
func NewMember(s *Service, b *Backend, h Handle, now time.Time) Member {
	m := Member{
		Backend: *b, Mode: b.ModeIn(s), MTU: b.TunnelMTU,
		ID: BackendID(s.Name, b.Name), Handle: h, Ramp: s.Ramp(now.Sub(b.Since)),
	}
	if m.Mode == ModeDirect {
		m.MTU = b.LinkMTU
	}
	if why, down := b.WhyDown(s.Name); down && m.State == Active {
		m.State, m.Reason = Unhealthy, why
	} else if m.State == Active && !b.Has(s.VIP) {
		m.State, m.Reason = Unhealthy, "its agent is still setting up the VIP"
	}
	m.Own, m.OwnWeight = m.State, m.Weight
	return m
}

// PoolBuilder makes the successive pools of one service and keeps the handles
// of its members stable between them. It is not safe for concurrent use.
type PoolBuilder struct {
	svc     *Service
	version uint64
	slots   *Slots
	held    map[string]holder
}

// holder is who has a handle; a re-registration is another membership.
type holder struct {
	handle Handle
	since  int64
}

// NewPoolBuilder starts with an empty pool and slots of its own.
func NewPoolBuilder(svc *Service) *PoolBuilder {
	return &PoolBuilder{svc: svc, slots: NewSlots(), held: map[string]holder{}}
}

// Build returns the pool of those of backends that serve the service, with its
// lookup table.
func (b *PoolBuilder) Build(backends []Backend) *Pool {
	p := b.Assemble(backends)
	p.Lookup = NewLookup(p.Candidates())
	return p
}

// Assemble returns the same pool without a lookup table, which takes 256 KiB
// and a millisecond or more.
func (b *PoolBuilder) Assemble(backends []Backend) *Pool {
	b.version++
	now := time.Now()
	b.release(backends)
	var members []Member
	for i := range backends {
		if be := &backends[i]; be.Serves(b.svc.Name) {
			members = append(members, NewMember(b.svc, be, b.hold(be), now))
		}
	}
	return NewPool(b.svc, b.version, members)
}

// release frees the handles of memberships that ended.
func (b *PoolBuilder) release(backends []Backend) {
	for name, h := range b.held {
		if !slices.ContainsFunc(backends, func(be Backend) bool {
			return be.Name == name && be.Since.UnixNano() == h.since && be.Serves(b.svc.Name)
		}) {
			b.slots.Release(h.handle)
			delete(b.held, name)
		}
	}
}

func (b *PoolBuilder) hold(be *Backend) Handle {
	h, ok := b.held[be.Name]
	if !ok {
		h = holder{b.slots.Take(), be.Since.UnixNano()}
		b.held[be.Name] = h
	}
	return h.handle
}

// RefreshAfter returns how old the counts of a pool may be that a policy picks by.
// All flows of that time go by what it knew at its begin, so that the less it costs
// to look, the sooner it is done.
func RefreshAfter(members int) time.Duration {
	return time.Duration(min(1+members/50, 20)) * time.Millisecond
}
