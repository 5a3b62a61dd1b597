package core

import "time"

// Admin is what the operator asks of a membership at the balancer, beside what
// the backend's agent asks. Neither overwrites the other: both hold at once.
type Admin struct {
	Paused   bool // no packet is forwarded to it
	Draining bool // established flows only
	Disabled bool // in no pool, until it is enabled
	Drained  bool // in no pool either: its drain is over
	Weighs   bool // Weight holds instead of the agent's
	Weight   uint32
}

// Out reports whether the membership is held out of its pool.
func (a Admin) Out() bool { return a.Disabled || a.Drained }

// And returns what two orders ask together; the weight is that of b, which is for
// one service, if it has one.
func (a Admin) And(b Admin) Admin {
	out := Admin{
		Paused: a.Paused || b.Paused, Draining: a.Draining || b.Draining, Disabled: a.Disabled || b.Disabled, Drained: a.Drained || b.Drained,
		Weighs: a.Weighs || b.Weighs, Weight: a.Weight,
	}
	if b.Weighs {
		out.Weight = b.Weight
	}
	return out
}

// AdminKey names what an order is for.
type AdminKey struct {
	Backend string
	Service string // "": every one
}

// AdminSet is the operator's orders. It is not changed once it is in the state.
type AdminSet map[AdminKey]Admin

// Of returns what is asked of a backend in a service.
func (s AdminSet) Of(backend, service string) Admin {
	if len(s) == 0 {
		return Admin{}
	}
	return s[AdminKey{backend, ""}].And(s[AdminKey{backend, service}])
}

// state returns the state that follows from what the operator asks and the state
// without that. Who was told PAUSED gets no packet, whatever else is asked.
func (a Admin) state(own BackendState) BackendState {
	switch {
	case a.Disabled:
		return Disabled
	case a.Drained:
		return Drained
	case a.Paused || own == Paused:
		return Paused
	case a.Draining:
		return Draining
	}
	return own
}

// NewAdminMember returns a backend's membership in a service under the
// operator's orders.
func NewAdminMember(s *Service, b *Backend, a Admin, h Handle, now time.Time) Member {
	m := NewMember(s, b, h, now)
	m.State = a.state(m.Own)
	if a.Weighs {
		m.Weight = a.Weight
	}
	return m
}
