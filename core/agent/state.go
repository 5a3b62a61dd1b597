package agent

import (
	"fmt"

	"github.com/caplance/caplance/core/control"
	"github.com/caplance/caplance/core/protocol"
)

// State is where the agent is with its balancer:
//
//	Unregistered → Registering → Active ⇄ Paused, Draining → Drained → Deregistering
//
// A broken session leads back to Registering from any of them.
type State uint8

// The states.
const (
	Unregistered  State = iota // deregistered by the operator
	Registering                // no session, or not proven yet
	Active                     // flows may come
	Paused                     // registered, no packets
	Draining                   // established flows only
	Drained                    // none is left, or the balancer moved them
	Deregistering              // the balancer is being told
)

var stateNames = [...]string{"Unregistered", "Registering", "Active", "Paused", "Draining", "Drained", "Deregistering"}

func (s State) String() string { return stateNames[s] }

// registered reports whether the balancer lists the backend.
func (s State) registered() bool { return s >= Active && s <= Drained }

// verbs are the operations that the balancer is asked for: what is sent, what
// is awaited, and where it leads.
var verbs = map[control.Op]struct {
	ask, answer protocol.Verb
	to          State
}{
	control.Pause:      {protocol.Pause, protocol.Paused, Paused},
	control.Resume:     {protocol.Resume, protocol.Resumed, Active},
	control.Drain:      {protocol.Drain, protocol.Draining, Draining},
	control.Deregister: {protocol.Deregister, protocol.Deregistered, Unregistered},
}

// allowed reports why op is not possible in state s, nil if it is.
func allowed(op control.Op, s State) error {
	switch {
	case s.registered():
		return nil
	case s == Unregistered && op == control.Resume:
		return nil // registers again
	case s == Unregistered:
		return fmt.Errorf("agent is deregistered (caplancectl resume registers it again)")
	case s == Registering:
		return fmt.Errorf("agent is not registered yet, no balancer could do it (its log says why)")
	}
	return fmt.Errorf("agent is %s", s)
}
