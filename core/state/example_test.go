package state_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/state"
)

// Two sources write; what follows from both is derived, and a change that fails
// leaves no trace.
func Example() {
	s := state.New(slog.New(slog.DiscardHandler), "config")
	s.Notify(func(snap *core.Snapshot) {
		if snap.Revision > 0 {
			fmt.Printf("revision %d: %d services, complete: %v\n", snap.Revision, len(snap.Services.List), snap.Complete)
		}
	})
	_, _ = s.Update("config", func(d *state.Draft) error {
		d.Done("config") // it has spoken: pruning is allowed
		return d.SetServices([]*core.Service{{Name: "web", VIP: netip.MustParseAddr("192.0.2.1"), Protos: []uint8{core.ProtoTCP}}})
	})
	_, _ = s.Update("registry", func(d *state.Draft) error {
		d.SetBackends([]core.Backend{{Name: "b1", Addr: netip.MustParseAddr("10.0.0.11"), Weight: 1, Since: time.Unix(1, 0)}})
		return nil
	})
	_, err := s.Update("operator", func(d *state.Draft) error {
		d.SetBackends(nil)
		return errors.New("not now")
	})
	snap := s.Snapshot()
	pool := snap.Pools.Of(snap.Services.Named("web").ID)
	fmt.Printf("%v; revision %d: %s is in slot %d\n", err, snap.Revision, pool.Members[0].Name, pool.Members[0].Handle.Slot())
	// Output:
	// revision 1: 1 services, complete: true
	// revision 2: 1 services, complete: true
	// not now; revision 2: b1 is in slot 0
}
