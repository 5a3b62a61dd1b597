package reconcile

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// The loop tells when it has last seen to its targets: also when there was nothing to do.
func TestPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config[state]{Targets: []Target[state]{newFake("a", newJournal())}, Revision: revision})
		if !l.Passed().IsZero() {
			t.Error("it has passed before it ran")
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		l.Set(&state{rev: 1})
		synctest.Wait()
		if age := time.Since(l.Passed()); age != 0 {
			t.Errorf("it passed %v ago", age)
		}
		time.Sleep(5 * time.Second)
		l.Kick("a")
		time.Sleep(time.Second)
		if age := time.Since(l.Passed()); age > time.Second {
			t.Errorf("kicked a second ago, it passed %v ago", age)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
