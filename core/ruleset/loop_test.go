package ruleset_test

import (
	"context"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/core/reconcile"
	"github.com/caplance/caplance/core/ruleset"
	"golang.org/x/sync/errgroup"
)

type whole struct {
	revision uint64
	capture  *ruleset.Capture
}

// Somebody deletes the tables again and again; the loop, which the watcher
// kicks, has them back within two seconds and says so once each time.
func TestLoopRepairsWhatOthersDelete(t *testing.T) {
	if !nettest.OwnNetNS(t) {
		return
	}
	target := ruleset.NewCapture().Share()
	drifts := make(chan reconcile.Event, 10)
	loop := reconcile.New(reconcile.Config[whole]{
		Targets:  []reconcile.Target[whole]{reconcile.View(target, func(w *whole) *ruleset.Capture { return w.capture })},
		Revision: func(w *whole) uint64 { return w.revision },
		OnEvent:  func(e reconcile.Event) { drifts <- e },
		Verify:   time.Hour,
	})
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { return loop.Run(ctx) })
	g.Go(func() error { return ruleset.Watch(ctx, func() { loop.Kick(target.String()) }) })
	loop.Set(&whole{1, &ruleset.Capture{Queues: 2, TunnelPort: 1337, Services: []ruleset.Service{
		{VIP: vip, Proto: core.ProtoTCP, Ports: []core.PortRange{core.AllPorts}},
	}}})
	if err := loop.Wait(ctx, 1); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(3) {
		if err := ruleset.Remove(); err != nil {
			t.Fatal(err)
		}
		select {
		case e := <-drifts:
			if e.Kind != reconcile.Drift || e.Target != "ruleset" {
				t.Errorf("event %+v, want a drift", e)
			}
		case <-time.After(slow.Time(2 * time.Second)):
			t.Fatal("no repair within 2 s")
		}
		if s := loop.Status()[0]; s.Drifts != i+1 || s.Error != nil {
			t.Errorf("status %+v, want %d drifts", s, i+1)
		}
		if list, err := ruleset.Tables(); err != nil || len(list) != 2 {
			t.Errorf("tables %v, %v", list, err)
		}
	}
	cancel()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}
