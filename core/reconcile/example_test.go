package reconcile_test

import (
	"context"
	"fmt"

	"github.com/caplance/caplance/core/reconcile"
)

// state is a desired state; lamps is the part of it that one target makes so.
type state struct {
	revision uint64
	lamps    *lamps
}

type lamps struct{ on []string }

// house is a target that prints what it does.
type house struct{}

func (house) String() string { return "lamps" }

func (house) Add(_ context.Context, was, want *lamps) error {
	fmt.Println("turn on", want.on)
	return nil
}

func (house) Prune(_ context.Context, was, want *lamps) error {
	fmt.Println("turn off all but", want.on)
	return nil
}

func (house) Verify(context.Context, *lamps) error { return nil }

func Example() {
	loop := reconcile.New(reconcile.Config[state]{
		Targets: []reconcile.Target[state]{
			reconcile.View(house{}, func(s *state) *lamps { return s.lamps }),
		},
		Revision: func(s *state) uint64 { return s.revision },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- loop.Run(ctx) }()

	evening := &lamps{on: []string{"hall", "kitchen"}}
	for revision := range uint64(3) { // only the first is news for the lamps
		loop.Set(&state{revision, evening})
		if err := loop.Wait(ctx, revision); err != nil {
			fmt.Println(err)
		}
	}
	cancel()
	<-done
	// Output:
	// turn on [hall kitchen]
	// turn off all but [hall kitchen]
}
