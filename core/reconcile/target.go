// Package reconcile makes a machine follow a desired state. A state is an
// immutable value of any type; targets each make one part of the machine as the
// newest state says, and a loop orders them: add before remove, retry with
// back-off, verify on events and at intervals. The package knows no technology.
//
// Read for the idea: cilium's statedb reconciler and pkg/loadbalancer.
package reconcile

import (
	"context"
	"errors"
	"fmt"
)

// ErrDrift is wrapped by the error of a Verify that found the machine changed
// by somebody else. The error's text names the change.
var ErrDrift = errors.New("changed by somebody else")

// Target makes one part of the machine as the state says. The loop makes one
// call at a time. A call may block on the kernel, never on the network; it
// returns soon after ctx has ended. The states are not to be changed.
//
// A target's methods may be called again with the same arguments, after an
// error and without one: what is done already is left as it is.
type Target[S any] interface {
	// String names the target in status, metrics and logs.
	fmt.Stringer
	// Add makes what want has. was is the state of the last Add that
	// succeeded; nil: the machine's state is not known, look at it. Add removes
	// nothing that was wants.
	Add(ctx context.Context, was, want *S) error
	// Prune removes what want does not have. It comes after the Add of all
	// targets. was is the state that the machine had before Add, and nothing
	// besides; nil: not known, look at the machine.
	Prune(ctx context.Context, was, want *S) error
	// Verify returns an error that wraps ErrDrift when the machine lacks what
	// want has: Add is called next, with was == nil.
	Verify(ctx context.Context, want *S) error
}
