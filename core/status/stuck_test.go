package status

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/counters"
	"github.com/caplance/caplance/core/datapath"
)

// A loop that is silent for too long is stuck; one that has only begun is not.
func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		snap := &core.Snapshot{Settings: &core.Settings{}, Services: core.NewServiceSet(nil), Pools: core.NewPoolSet(), VIPs: &core.VIPSet{}, Links: &core.LinkSet{}}
		path := datapath.NewWorker(datapath.Config{Snapshot: func() *core.Snapshot { return snap }, Flows: 64, Counters: counters.New(1)})
		passed := time.Time{}
		m := &Model{Workers: func() []*Worker { return []*Worker{{Queue: 1337, Path: path}} }, Passed: func() time.Time { return passed }}
		expect := func(when string, want ...string) {
			t.Helper()
			got := m.Stuck()
			if len(got) != len(want) {
				t.Errorf("%s: %q, want %q", when, got, want)
				return
			}
			for i := range got {
				if !strings.Contains(got[i], want[i]) {
					t.Errorf("%s: %q, want %q", when, got, want)
				}
			}
		}
		expect("at the start")
		time.Sleep(workerSilence + time.Second)
		expect("without a tick", "queue 1337 has been silent for 11s")
		path.Tick(time.Now())
		passed = time.Now()
		expect("after both")
		time.Sleep(loopSilence + time.Second)
		path.Tick(time.Now())
		expect("the worker alone", "the reconcile loop has been silent for 1m1s")
	})
}
