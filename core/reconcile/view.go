package reconcile

import "context"

// View returns a target of S that gives t its part of the state. view is called
// once for each state and must not return nil. A part that is equal to the one
// before costs t nothing: equal is the same pointer, or what the part's method
// Equal(*T) bool reports.
//
//	reconcile.View(addresses, func(s *State) *hostnet.State { return s.Host })
func View[S, T any](t Target[T], view func(*S) *T) Target[S] {
	return &viewed[S, T]{Target: t, view: view}
}

// viewed keeps the parts of the newest states: the loop asks for no older ones.
type viewed[S, T any] struct {
	Target[T]
	view func(*S) *T
	kept []pair[S, T] // the newest last, at most keep
}

type pair[S, T any] struct {
	whole *S
	part  *T
}

const keep = 4

// part returns the part of a state: the very part of the state before when the
// two are equal.
func (v *viewed[S, T]) part(s *S) *T {
	if s == nil {
		return nil
	}
	for _, p := range v.kept {
		if p.whole == s {
			return p.part
		}
	}
	part := v.view(s)
	if n := len(v.kept); n > 0 && equal(part, v.kept[n-1].part) {
		part = v.kept[n-1].part
	}
	v.kept = append(v.kept, pair[S, T]{s, part})
	if len(v.kept) > keep {
		v.kept = append(v.kept[:0:0], v.kept[1:]...)
	}
	return part
}

func equal[T any](a, b *T) bool {
	if a == b {
		return true
	}
	e, ok := any(a).(interface{ Equal(*T) bool })
	return ok && e.Equal(b)
}

func (v *viewed[S, T]) Add(ctx context.Context, was, want *S) error {
	w, n := v.part(was), v.part(want)
	if w == n {
		return nil
	}
	return v.Target.Add(ctx, w, n)
}

func (v *viewed[S, T]) Prune(ctx context.Context, was, want *S) error {
	w, n := v.part(was), v.part(want)
	if w == n {
		return nil
	}
	return v.Target.Prune(ctx, w, n)
}

func (v *viewed[S, T]) Verify(ctx context.Context, want *S) error {
	return v.Target.Verify(ctx, v.part(want))
}
