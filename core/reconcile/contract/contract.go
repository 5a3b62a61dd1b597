// Package contract tests that a target keeps what reconcile.Target demands, on
// the real machine.
//
//	contract.Test(t, contract.Case[hostnet.State]{
//		Setup:     func(t *testing.T) { nettest.NetNS(t) },
//		New:       func(t *testing.T) reconcile.Target[hostnet.State] { … },
//		Empty:     &hostnet.State{},
//		States:    []*hostnet.State{one, two},
//		Footprint: func(t *testing.T) string { … },
//		Drifts:    []contract.Drift{{Name: "VIP deleted", Break: func(t *testing.T) { … }}},
//	})
package contract

import (
	"errors"
	"testing"

	"github.com/caplance/caplance/core/reconcile"
)

// Case is a target and what there is to be tried with it. Each clause of the
// contract runs in a subtest with a machine that Setup has made.
type Case[T any] struct {
	// Setup makes a new machine, usually a network namespace, for the calling
	// goroutine. It puts foreign things on it that the target must leave alone.
	Setup func(t *testing.T)
	// New returns a target as a process would that starts now.
	New func(t *testing.T) reconcile.Target[T]
	// Empty is the state that wants nothing.
	Empty *T
	// States are at least two, which differ. Each is made from each.
	States []*T
	// Footprint describes what of the machine the target may change, with the
	// foreign things beside it and without what changes by itself.
	Footprint func(t *testing.T) string
	// Drifts break the machine that the first of States has made.
	Drifts []Drift
}

// Drift is a change that somebody else makes.
type Drift struct {
	Name  string
	Break func(t *testing.T)
}

// Test runs every clause.
func Test[T any](t *testing.T, c Case[T]) {
	if len(c.States) < 2 || len(c.Drifts) == 0 {
		t.Fatalf("%d states and %d drifts prove nothing: want two and one", len(c.States), len(c.Drifts))
	}
	for name, clause := range map[string]func(*testing.T){
		"adding twice changes nothing": c.twice,
		"pruning removes what is gone": c.prune,
		"unknown states are pruned":    c.unknown,
		"a successor takes over":       c.successor,
		"nothing is left of nothing":   c.empty,
	} {
		t.Run(name, func(t *testing.T) {
			c.Setup(t)
			clause(t)
		})
	}
	for _, d := range c.Drifts {
		t.Run("drift: "+d.Name, func(t *testing.T) {
			c.Setup(t)
			c.drift(t, d)
		})
	}
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func (c *Case[T]) same(t *testing.T, what, want string) {
	t.Helper()
	if got := c.Footprint(t); got != want {
		t.Fatalf("%s:\n%s\nwant\n%s", what, got, want)
	}
}

// footprint returns the footprint of a state that was made from nothing, which is
// then taken away again.
func (c *Case[T]) footprint(t *testing.T, s *T) string {
	t.Helper()
	before := c.Footprint(t)
	target := c.New(t)
	must(t, "Add", target.Add(t.Context(), nil, s))
	must(t, "Prune", target.Prune(t.Context(), nil, s))
	out := c.Footprint(t)
	if out == before {
		t.Fatalf("the footprint does not show the state:\n%s", out)
	}
	must(t, "Add of the empty state", target.Add(t.Context(), s, c.Empty))
	must(t, "Prune to the empty state", target.Prune(t.Context(), s, c.Empty))
	c.same(t, "after the empty state", before)
	return out
}

func (c *Case[T]) twice(t *testing.T) {
	ctx := t.Context()
	for _, s := range c.States {
		target := c.New(t)
		must(t, "Add", target.Add(ctx, nil, s))
		once := c.Footprint(t)
		must(t, "Verify", target.Verify(ctx, s))
		must(t, "Add of an unknown state", target.Add(ctx, nil, s))
		c.same(t, "added twice", once)
		must(t, "Add of the same state", target.Add(ctx, s, s))
		c.same(t, "added again", once)
		must(t, "Verify", target.Verify(ctx, s))
		must(t, "Prune", target.Prune(ctx, nil, c.Empty))
	}
}

// pairs calls f with every state and every other one.
func (c *Case[T]) pairs(f func(was, want *T)) {
	all := append([]*T{c.Empty}, c.States...)
	for _, was := range all {
		for _, want := range all {
			if was != want {
				f(was, want)
			}
		}
	}
}

// footprints returns the footprint of each state, made from nothing.
func (c *Case[T]) footprints(t *testing.T) map[*T]string {
	out := map[*T]string{c.Empty: c.Footprint(t)}
	for _, s := range c.States {
		out[s] = c.footprint(t, s)
	}
	return out
}

func (c *Case[T]) prune(t *testing.T) {
	ctx, looks := t.Context(), c.footprints(t)
	c.pairs(func(was, want *T) {
		target := c.New(t)
		must(t, "Add", target.Add(ctx, nil, was))
		must(t, "Prune", target.Prune(ctx, nil, was))
		must(t, "Add of the next state", target.Add(ctx, was, want))
		must(t, "Verify before Prune", target.Verify(ctx, want))
		must(t, "Prune to the next state", target.Prune(ctx, was, want))
		c.same(t, "pruned", looks[want])
		must(t, "Verify", target.Verify(ctx, want))
		must(t, "Prune once more", target.Prune(ctx, was, want))
		c.same(t, "pruned twice", looks[want])
		must(t, "Prune to the empty state", target.Prune(ctx, nil, c.Empty))
		c.same(t, "pruned to nothing", looks[c.Empty])
	})
}

func (c *Case[T]) unknown(t *testing.T) {
	ctx, looks := t.Context(), c.footprints(t)
	c.pairs(func(was, want *T) {
		target := c.New(t)
		must(t, "Add", target.Add(ctx, nil, was))
		must(t, "Add of the next state", target.Add(ctx, nil, want))
		must(t, "Prune", target.Prune(ctx, nil, want))
		c.same(t, "pruned", looks[want])
		must(t, "Prune to the empty state", target.Prune(ctx, nil, c.Empty))
	})
}

// successor has another target, that knows nothing, take over what the first
// one has made.
func (c *Case[T]) successor(t *testing.T) {
	ctx, looks := t.Context(), c.footprints(t)
	c.pairs(func(was, want *T) {
		must(t, "Add", c.New(t).Add(ctx, nil, was))
		target := c.New(t)
		must(t, "Add of the successor", target.Add(ctx, nil, want))
		must(t, "Verify of the successor", target.Verify(ctx, want))
		must(t, "Prune of the successor", target.Prune(ctx, nil, want))
		c.same(t, "taken over", looks[want])
		must(t, "Prune to the empty state", target.Prune(ctx, nil, c.Empty))
		c.same(t, "pruned to nothing", looks[c.Empty])
	})
}

func (c *Case[T]) empty(t *testing.T) {
	ctx, target, before := t.Context(), c.New(t), c.Footprint(t)
	must(t, "Add of the empty state", target.Add(ctx, nil, c.Empty))
	must(t, "Verify", target.Verify(ctx, c.Empty))
	must(t, "Prune", target.Prune(ctx, nil, c.Empty))
	c.same(t, "the empty state", before)
}

func (c *Case[T]) drift(t *testing.T, d Drift) {
	ctx, target, s := t.Context(), c.New(t), c.States[0]
	must(t, "Add", target.Add(ctx, nil, s))
	must(t, "Prune", target.Prune(ctx, nil, s))
	must(t, "Verify", target.Verify(ctx, s))
	whole := c.Footprint(t)
	d.Break(t)
	if err := target.Verify(ctx, s); !errors.Is(err, reconcile.ErrDrift) {
		t.Fatalf("Verify: %v, want one that wraps ErrDrift", err)
	}
	must(t, "Add", target.Add(ctx, nil, s))
	must(t, "Verify after the repair", target.Verify(ctx, s))
	c.same(t, "repaired", whole)
}
