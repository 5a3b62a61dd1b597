package core

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Handle names one membership of a backend in a pool: a slot in the pool's
// arrays and the slot's generation. A backend that leaves and comes back gets
// another Handle, so a flow can tell that its backend ended. The zero Handle
// names nobody.
type Handle uint32

func newHandle(slot, gen uint16) Handle { return Handle(gen)<<16 | Handle(slot) }

// Slot indexes per-backend arrays of one pool; it is reused after the backend
// left.
func (h Handle) Slot() uint16 { return uint16(h) }

// Member is one backend in one service's pool.
type Member struct {
	Backend
	Mode   Mode   // how packets get to it
	MTU    int    // longest packet that gets there by that mode, bytes
	ID     uint64 // BackendID(service, name)
	Ramp   uint32 // slow start: per mille of its share, 1000 is all
	Handle Handle
}

// Pool is the set of backends of one service at one moment: immutable,
// published behind an atomic pointer, read by the packet path.
type Pool struct {
	Service  *Service
	Version  uint64   // grows by one with every change
	Members  []Member // eligible ones first, each part ordered by name
	Eligible int      // Members[:Eligible] may be picked for new flows

	Lookup  *Lookup // over Members[:Eligible]: the native fallback pick
	MidFlow *Lookup // where TCP flows without an entry belong; see PoolBuilder.Build
	Table   *Lookup // the policy's own table, nil for policies without one

	bySlot []int32 // slot → index in Members, or -1
}

// Find is the index in Members of the backend that h names; ok is false when
// that membership has ended.
func (p *Pool) Find(h Handle) (index int, ok bool) {
	s := int(h.Slot())
	if s >= len(p.bySlot) {
		return 0, false
	}
	i := p.bySlot[s]
	if i < 0 || p.Members[i].Handle != h {
		return 0, false
	}
	return int(i), true
}

// Slots is the size that an array indexed by Handle.Slot needs.
func (p *Pool) Slots() int { return len(p.bySlot) }

// PoolBuilder makes the successive pools of one service and keeps the slots
// of its members stable between them. It is not safe for concurrent use.
type PoolBuilder struct {
	svc     *Service
	version uint64
	slots   []slot
}

type slot struct {
	name  string // "" when free
	since int64  // a re-registration is another membership
	gen   uint16
	kept  netip.Addr // of a predecessor's member that has not come back yet
}

// Seat is the slot of one member, as a successor restores it.
type Seat struct {
	Name string
	Addr netip.Addr
	Slot uint16
	Gen  uint16
}

// Seats lists who holds which slot in p.
func (p *Pool) Seats() []Seat {
	out := make([]Seat, len(p.Members))
	for i, m := range p.Members {
		out[i] = Seat{m.Name, m.Addr, m.Handle.Slot(), uint16(m.Handle >> 16)}
	}
	return out
}

// Restore keeps a predecessor's seats for the backends that come back from the
// same address, so that their handles stay what the kernel's flows say. It
// comes before the first Build.
func (b *PoolBuilder) Restore(seats []Seat) {
	for _, s := range seats {
		for len(b.slots) <= int(s.Slot) {
			b.slots = append(b.slots, slot{})
		}
		b.slots[s.Slot] = slot{name: s.Name, gen: s.Gen, kept: s.Addr}
	}
}

// Forget gives up the seats of those who have not come back.
func (b *PoolBuilder) Forget() {
	for i := range b.slots {
		if b.slots[i].kept.IsValid() {
			b.slots[i] = slot{gen: b.slots[i].gen}
		}
	}
}

// NewPoolBuilder starts with an empty pool.
func NewPoolBuilder(svc *Service) *PoolBuilder { return &PoolBuilder{svc: svc} }

// Build makes the pool of those of backends that serve the service.
//
// before is the pool as it was when a predecessor of this process died, nil
// when there was none or when it no longer matters. TCP flows without an entry
// are then sent where the predecessor's lookup table sent them, and nowhere
// while that backend has not yet registered again: any other backend would
// answer them with a reset.
func (b *PoolBuilder) Build(backends []Backend, before []Candidate) *Pool {
	b.version++
	p := &Pool{Service: b.svc, Version: b.version}
	b.release(backends)
	for _, be := range backends {
		if be.Serves(b.svc.Name) {
			p.Members = append(p.Members, b.member(be))
		}
	}
	slices.SortFunc(p.Members, func(x, y Member) int {
		if ex, ey := x.eligible(), y.eligible(); ex != ey {
			if ex {
				return -1
			}
			return 1
		}
		return cmp.Compare(x.Name, y.Name)
	})
	p.bySlot = slices.Repeat([]int32{-1}, len(b.slots))
	candidates := make([]Candidate, 0, len(p.Members))
	for i := range p.Members {
		m := &p.Members[i]
		p.bySlot[m.Handle.Slot()] = int32(i)
		if m.eligible() {
			p.Eligible++
			candidates = append(candidates, Candidate{ID: m.ID, Weight: m.Weight, Index: uint16(i)})
		}
	}
	p.Lookup = NewLookup(candidates)
	p.MidFlow = p.Lookup
	if len(before) > 0 {
		p.MidFlow = p.lookupBefore(before)
	}
	return p
}

func (b *PoolBuilder) member(be Backend) Member {
	m := Member{
		Backend: be, Mode: be.ModeIn(b.svc), MTU: be.TunnelMTU,
		ID: BackendID(b.svc.Name, be.Name), Handle: b.hold(&be), Ramp: b.svc.Ramp(time.Since(be.Since)),
	}
	if m.Mode == ModeDirect {
		m.MTU = be.LinkMTU
	}
	return m
}

// Kernel says whether the kernel may forward to the backend: its agent must be
// able to take super-packets and unfinished checksums out of a tunnel.
func (m *Member) Kernel() bool { return m.KernelDecap || m.Mode == ModeDirect }

// lookupBefore is the predecessor's table with today's indices.
func (p *Pool) lookupBefore(before []Candidate) *Lookup {
	before = slices.Clone(before)
	for i := range before {
		before[i].Index = NoBackend - 1 // not back yet
		for j := range p.Members {
			if p.Members[j].ID == before[i].ID {
				before[i].Index = uint16(j)
			}
		}
	}
	l := NewLookup(before)
	for i, s := range l.slots {
		if s == NoBackend-1 {
			l.slots[i] = NoBackend
		}
	}
	return l
}

// WithTable is the pool with another table of the policy's.
func (p *Pool) WithTable(t *Lookup) *Pool {
	out := *p
	if p.MidFlow == p.Lookup || p.MidFlow == p.Table {
		out.MidFlow = t // a policy's table repeats itself as ours does
		if t == nil {
			out.MidFlow = p.Lookup
		}
	}
	out.Table = t
	return &out
}

// Inherit is the pool with the table of its predecessor, until the policy has
// made one for it: slots of backends that are no longer eligible fall to the
// lookup table.
func (p *Pool) Inherit(from *Pool) *Pool {
	if from == nil || from.Table == nil {
		return p
	}
	t := from.Table.Remap(func(i uint16) uint16 {
		if now, ok := p.Find(from.Members[i].Handle); ok && now < p.Eligible {
			return uint16(now)
		}
		return NoBackend
	})
	return p.WithTable(t)
}

// Candidates are the pool's eligible backends: what a successor passes to
// Build as before.
func (p *Pool) Candidates() []Candidate {
	out := make([]Candidate, p.Eligible)
	for i := range out {
		out[i] = Candidate{ID: p.Members[i].ID, Weight: p.Members[i].Weight}
	}
	return out
}

func (m *Member) eligible() bool { return m.State == Active && m.Weight > 0 }

// release frees the slots of memberships that ended.
func (b *PoolBuilder) release(backends []Backend) {
	for i := range b.slots {
		s := &b.slots[i]
		if s.name == "" || s.kept.IsValid() {
			continue
		}
		if !slices.ContainsFunc(backends, func(be Backend) bool {
			return be.Name == s.name && be.Since.UnixNano() == s.since && be.Serves(b.svc.Name)
		}) {
			s.name = ""
		}
	}
}

// hold finds the backend's slot or takes a free one, the longest free first
// by generation.
func (b *PoolBuilder) hold(be *Backend) Handle {
	free := -1
	for i := range b.slots {
		s := &b.slots[i]
		if s.name == be.Name && s.kept.IsValid() && s.kept != be.Addr {
			*s = slot{gen: s.gen} // another machine by the same name
		}
		if s.name == be.Name {
			s.since, s.kept = be.Since.UnixNano(), netip.Addr{}
			return newHandle(uint16(i), s.gen)
		}
		if s.name == "" && (free < 0 || s.gen < b.slots[free].gen) {
			free = i
		}
	}
	if free < 0 {
		free = len(b.slots)
		b.slots = append(b.slots, slot{})
	}
	s := &b.slots[free]
	s.gen = max(s.gen+1, 1) // 0 would make the zero Handle valid
	s.name, s.since = be.Name, be.Since.UnixNano()
	return newHandle(uint16(free), s.gen)
}
