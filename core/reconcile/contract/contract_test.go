package contract_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/caplance/caplance/core/reconcile"
	"github.com/caplance/caplance/core/reconcile/contract"
)

// shelf is a machine of names; those that begin with "x" are not ours.
type shelf map[string]bool

type names []string

// target puts names on a shelf.
type target struct{ shelf shelf }

func (t target) String() string { return "shelf" }

func (t target) Add(_ context.Context, _, want *names) error {
	for _, n := range *want {
		t.shelf[n] = true
	}
	return nil
}

func (t target) Prune(_ context.Context, _, want *names) error {
	maps.DeleteFunc(t.shelf, func(n string, _ bool) bool {
		return n[0] != 'x' && !slices.Contains(*want, n)
	})
	return nil
}

func (t target) Verify(_ context.Context, want *names) error {
	for _, n := range *want {
		if !t.shelf[n] {
			return fmt.Errorf("%s is gone: %w", n, reconcile.ErrDrift)
		}
	}
	return nil
}

func TestContract(t *testing.T) {
	var s shelf
	contract.Test(t, contract.Case[names]{
		Setup:     func(*testing.T) { s = shelf{"xenon": true} },
		New:       func(*testing.T) reconcile.Target[names] { return target{s} },
		Empty:     &names{},
		States:    []*names{{"a", "b"}, {"b", "c"}},
		Footprint: func(*testing.T) string { return fmt.Sprint(slices.Sorted(maps.Keys(s))) },
		Drifts:    []contract.Drift{{Name: "one removed", Break: func(*testing.T) { delete(s, "a") }}},
	})
}
