package fastpath

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/reconcile"
)

// Verify implements reconcile.Target. It finds programs that were detached,
// links that were made anew, and pins that an unmounted file system took along.
func (b *Balancer) Verify(_ context.Context, want *core.Snapshot) error {
	if b.gen == nil {
		return nil
	}
	var errs []error
	if !b.pins.there() {
		errs = append(errs, fmt.Errorf("%w: BPF file system with the pins is gone", reconcile.ErrDrift), b.remount())
	}
	for _, l := range want.Links.List {
		if l.Index == 0 {
			continue
		}
		for k := range b.gen.programs(l) {
			errs = append(errs, b.verifyHook(l, k))
		}
	}
	return errors.Join(errs...)
}

func (b *Balancer) verifyHook(l core.Link, k hookKey) error {
	if h := b.hooks[k]; h == nil || !h.intact() {
		return fmt.Errorf("%w: program detached from %s", reconcile.ErrDrift, l.Name)
	}
	return nil
}

// remount brings the pins back: the process still holds all that they held.
func (b *Balancer) remount() error {
	if err := b.pins.restore(); err != nil {
		return err
	}
	for name, m := range b.maps().byName() {
		if !pinned(name) {
			continue
		}
		if _, err := os.Stat(b.pinPath(name)); err == nil {
			continue
		}
		_ = (*m).Unpin() // it remembers a file that is gone
		if err := (*m).Pin(b.pinPath(name)); err != nil {
			return fmt.Errorf("fast path: pin of %s: %w", name, err)
		}
	}
	if b.saved != nil {
		_ = b.saved.Unpin()
		if err := b.saved.Pin(b.pinPath(savedPin)); err != nil {
			return fmt.Errorf("fast path: pin of the saved state: %w", err)
		}
	}
	return nil
}
