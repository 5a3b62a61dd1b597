package agent

import (
	"context"
	"fmt"
	"time"
)

// startTimeout is for the machine's first state, which needs nobody else.
const startTimeout = 10 * time.Second

// begin brings the machine to its first state: who cannot even have that does
// not start.
func (a *Agent) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := a.loop.Wait(ctx, a.store.refresh())
	for _, s := range a.loop.Status() {
		if err != nil && s.Error != nil {
			return fmt.Errorf("machine: %s: %w", s.Target, s.Error)
		}
	}
	return err
}

// lookAgain is how long after a change of our own the machine is looked over
// once more: when somebody takes it back at once, the network is like before,
// and no change of it is to be seen.
const lookAgain = time.Second

// follow makes the machine follow the network, and has it looked over whenever
// something there has changed.
func (a *Agent) follow(ctx context.Context) error {
	again := time.NewTimer(lookAgain)
	defer again.Stop()
	for move := (movement{}); ; {
		changed := a.network.Changed()
		a.store.refresh()
		a.loop.Kick("")
		wait, err := move.check(a.store, time.Now())
		if err != nil {
			return err
		}
		if wait > 0 {
			again.Reset(wait)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-again.C:
		case <-a.touched:
			again.Reset(lookAgain)
		}
	}
}

// signal makes a channel that holds one hold one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// keep runs a watch until ctx ends. One that fails is no reason to end: the
// loop looks at everything at intervals.
func (a *Agent) keep(ctx context.Context, w watch) error {
	for retry := (backoff{}); ; {
		err := w(ctx, a.loop.Kick)
		if ctx.Err() != nil {
			return nil
		}
		a.log.Warn("changes of the machine are seen later than usual, trying again", "err", err)
		if !retry.wait(ctx) {
			return nil
		}
	}
}
