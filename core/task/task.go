// Package task runs what lives as long as its process: the first that fails ends
// all.
//
//	g, ctx := task.NewGroup(ctx)
//	g.Start(task.New("loop", loop.Run), task.Every("heartbeat", time.Second, beat))
//	err := g.Wait()
package task

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// Task is something that lives as long as its process.
type Task interface {
	fmt.Stringer
	// Run works until ctx ends, which is no error.
	Run(ctx context.Context) error
}

// named is a Task made of a function.
type named struct {
	name string
	run  func(ctx context.Context) error
}

func (t named) String() string                { return t.name }
func (t named) Run(ctx context.Context) error { return t.run(ctx) }

// New returns a task that calls run.
func New(name string, run func(ctx context.Context) error) Task { return named{name, run} }

// Every returns a task that calls do at an interval.
func Every(name string, interval time.Duration, do func(ctx context.Context) error) Task {
	return New(name, func(ctx context.Context) error {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				if err := do(ctx); err != nil {
					return err
				}
			}
		}
	})
}

// Group is tasks that end together.
type Group struct {
	*errgroup.Group
	ctx context.Context
}

// NewGroup returns an empty group, whose context ends with ctx or with the first
// task that fails.
func NewGroup(ctx context.Context) (*Group, context.Context) {
	g, ctx := errgroup.WithContext(ctx)
	return &Group{g, ctx}, ctx
}

// Start runs tasks. What fails once the context has ended is no failure.
func (g *Group) Start(tasks ...Task) {
	for _, t := range tasks {
		g.Go(func() error {
			if err := t.Run(g.ctx); err != nil && g.ctx.Err() == nil {
				return fmt.Errorf("%s: %w", t, err)
			}
			return nil
		})
	}
}
