package core

// Handle names one membership of a backend in a service: a slot of the one
// space that all services share, and the slot's generation. A backend that
// leaves and comes back gets another Handle, so a flow can tell that its
// backend ended. The zero Handle names nobody.
//
//	bits 0–19   slot: index of the arrays of counters, targets and statistics
//	bits 20–31  generation, from 1 on: a slot is reused after the backend left
type Handle uint32

// SlotBits is the width of a Handle's slot, MaxSlots how many there can be.
const (
	SlotBits = 20
	MaxSlots = 1 << SlotBits

	maxGeneration = 1<<(32-SlotBits) - 1
)

// NewHandle returns the handle of a slot's generation.
func NewHandle(slot uint32, gen uint16) Handle { return Handle(gen)<<SlotBits | Handle(slot) }

// Slot returns the index of the membership in arrays by slot.
func (h Handle) Slot() uint32 { return uint32(h) & (MaxSlots - 1) }

// Generation returns which membership of the slot it is, 0 for nobody.
func (h Handle) Generation() uint16 { return uint16(h >> SlotBits) }

// Membership is what a Handle names: a backend, by its name and registration,
// in a service.
type Membership struct {
	Service ServiceID
	Name    string
}

// Slots hands out handles. It is not safe for concurrent use.
type Slots struct {
	gens []uint16 // by slot: of the last membership
	used []bool
	free []uint32 // in the order in which they became free: the longest free is next
}

// NewSlots starts with no slot in use.
func NewSlots() *Slots { return &Slots{} }

// Len returns how long an array by slot must be.
func (s *Slots) Len() int { return len(s.gens) }

// Take returns a handle that no membership has.
func (s *Slots) Take() Handle {
	for len(s.free) > 0 {
		slot := s.free[0]
		s.free = s.free[1:]
		if !s.used[slot] { // Reserve may have taken it meanwhile
			return s.begin(slot)
		}
	}
	s.grow(len(s.gens) + 1)
	return s.begin(uint32(len(s.gens) - 1))
}

func (s *Slots) begin(slot uint32) Handle {
	if s.gens[slot]++; s.gens[slot] > maxGeneration {
		s.gens[slot] = 1 // 0 would make the zero Handle valid
	}
	s.used[slot] = true
	return NewHandle(slot, s.gens[slot])
}

func (s *Slots) grow(n int) {
	for len(s.gens) < n {
		s.gens, s.used = append(s.gens, 0), append(s.used, false)
	}
}

// Reserve marks a handle that a predecessor gave away. It reports false when
// its slot is in use.
func (s *Slots) Reserve(h Handle) bool {
	slot := h.Slot()
	before := len(s.gens)
	s.grow(int(slot) + 1)
	for i := before; i < int(slot); i++ {
		s.free = append(s.free, uint32(i))
	}
	if s.used[slot] {
		return false
	}
	s.gens[slot], s.used[slot] = h.Generation(), true
	return true
}

// Release ends a membership; its slot is used again after all others that are
// free.
func (s *Slots) Release(h Handle) {
	slot := h.Slot()
	if int(slot) < len(s.used) && s.used[slot] && s.gens[slot] == h.Generation() {
		s.used[slot] = false
		s.free = append(s.free, slot)
	}
}
