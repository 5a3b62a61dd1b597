package manager

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/state"
	"github.com/caplance/caplance/plugins/host"
)

// A policy's table goes with the last eligible backend, by which the kernel would
// place new flows at those that drain, and comes with the next one.
func TestTableOfNobody(t *testing.T) {
	store := state.New(silent)
	m, err := New(t.Context(), Config{Store: store, Workers: 1, Limits: host.DefaultLimits(), Log: silent})
	must(t, err)
	defer func() { must(t, m.Close()) }()
	svc := service("a", "maglev")
	svc.Protos, svc.Ports = []uint8{core.ProtoTCP}, []core.PortRange{core.AllPorts}
	_, err = store.Update("test", func(d *state.Draft) error { return d.SetServices([]*core.Service{svc}) })
	must(t, err)
	apply(t, m, host.DefaultLimits(), svc)
	m.Start(func(_ int, fn func()) error { fn(); return nil })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	defer func() { cancel(); must(t, <-ended) }()
	for _, s := range []core.BackendState{core.Active, core.Draining, core.Active} {
		_, err := store.Update("test", func(d *state.Draft) error {
			d.SetBackends([]core.Backend{{Name: "b", Addr: netip.MustParseAddr("10.0.0.1"), Weight: 1, Since: time.Unix(1, 0), State: s}})
			return nil
		})
		must(t, err)
		end := time.After(10 * time.Second)
		for {
			pool := store.Snapshot().Pools.Of(0)
			if (pool.Table != nil) == (s == core.Active) {
				break
			}
			select {
			case <-end:
				t.Fatalf("%v: table %v", s, pool.Table != nil)
			case <-time.After(time.Millisecond):
			}
		}
	}
}
