package hostnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/caplance/caplance/core/reconcile"
)

// look is how often Watch reads the sysctls: a handful of small files.
const look = time.Second

// Watch calls changed whenever a sysctl of the last Add has been set to another
// value, until ctx ends, which is no error. The kernel tells nobody of that, so
// they are read once a second; of addresses and links rtnetlink tells. It must
// run in the network namespace of the target. changed must not block.
func (t *Target) Watch(ctx context.Context, changed func()) error {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if want := t.want.Load(); want != nil && want.verifySysctls() != nil {
			changed()
		}
	}
}

// verifySysctls returns an error that wraps reconcile.ErrDrift and names the
// first sysctl that has another value.
func (s *State) verifySysctls() error {
	for key, value := range s.Sysctls {
		if absent(key) {
			continue
		}
		now, err := readSysctl(key)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return fmt.Errorf("%w: %w", err, reconcile.ErrDrift)
		case err != nil:
			return err
		case now != value:
			return fmt.Errorf("sysctl %s is %s, not %s: %w", key, now, value, reconcile.ErrDrift)
		}
	}
	return nil
}
