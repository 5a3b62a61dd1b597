package succession

import (
	"context"
	"errors"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/state"
)

// Restore takes over what a predecessor saved, if there was one.
// Flows live for longest without a packet.
func (s *State) Restore(settings *core.Settings, longest time.Duration) (found bool, err error) {
	saved, err := s.load(settings, longest)
	if err != nil || saved == nil {
		return false, err
	}
	s.Store.Restore(saved)
	return true, nil
}

// load returns what a predecessor saved: beside its flows in the kernel,
// whatever there is in files, or else in its file, if its flows cannot be over
// by now.
func (s *State) load(settings *core.Settings, longest time.Duration) (*state.Saved, error) {
	saved, err := s.Fast.LoadState()
	if err != nil {
		s.Log.Warn("flows in the kernel are dropped: nothing tells what they belong to", "err", err)
		return nil, s.Fast.StartAnew(settings)
	}
	if saved != nil {
		return saved, nil
	}
	saved, silent, err := s.File.Load()
	if errors.Is(err, state.ErrDamaged) {
		s.Log.Warn("saved state not used: flows of a predecessor may be placed anew", "err", err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if silent > longest {
		return nil, nil
	}
	return saved, nil
}

// Await waits for the predecessor's backends, as long as those can
// take to come back.
func (s *State) Await(ctx context.Context, rejoin time.Duration) error {
	grace := time.NewTimer(rejoin + 5*time.Second)
	defer grace.Stop()
	changed := make(chan struct{}, 1)
	s.Store.Notify(func(*core.Snapshot) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	if n := s.Store.Expected(); n > 0 {
		s.Log.Info("waiting for the backends of the predecessor", "backends", n)
	}
	for !s.Store.Returned() {
		select {
		case <-ctx.Done():
			return nil
		case <-grace.C:
			s.Log.Warn("not all backends of the predecessor are back: their flows are placed anew")
			return s.done()
		case <-changed:
		}
	}
	return s.done()
}

func (s *State) done() error {
	_, err := s.Store.Update(Source, func(dr *state.Draft) error {
		dr.Done(Source)
		return nil
	})
	if b := s.Fast.Kernel(); err == nil && b != nil && b.Inherited {
		s.Log.Info("flows in the kernel were taken over")
	}
	return err
}
