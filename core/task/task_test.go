package task

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errBroken = errors.New("broken")

// The first task that fails ends the others and gives the error its name.
func TestFirstFailureEndsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, ctx := NewGroup(t.Context())
		beats := 0
		g.Start(
			Every("heart", time.Second, func(context.Context) error { beats++; return nil }),
			New("end", func(ctx context.Context) error { <-ctx.Done(); return errors.New("late") }),
			Every("third", 3500*time.Millisecond, func(context.Context) error { return errBroken }),
		)
		err := g.Wait()
		if !errors.Is(err, errBroken) || !strings.HasPrefix(err.Error(), "third: ") {
			t.Errorf("error %v", err)
		}
		if beats != 3 || ctx.Err() == nil {
			t.Errorf("%d beats, context %v", beats, ctx.Err())
		}
	})
}

// The end of the context is no failure, whatever tasks return.
func TestRequestedEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		g, _ := NewGroup(ctx)
		g.Start(New("a", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }), Every("b", time.Hour, nil))
		cancel()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	})
}
