package workers

import (
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/counters"
	"github.com/caplance/caplance/core/datapath"
	"github.com/caplance/caplance/core/forward"
	"github.com/caplance/caplance/core/status"
	"github.com/caplance/caplance/core/verdict"
)

// What a worker has counted is counted once, whether it is there, on its way out, or
// gone.
func TestCountsOfWorkersThatLeave(t *testing.T) {
	snap := &core.Snapshot{Settings: &core.Settings{}, Services: core.NewServiceSet(nil), Pools: core.NewPoolSet(), VIPs: &core.VIPSet{}, Links: &core.LinkSet{}}
	one := func(n uint64) *worker {
		path := datapath.NewWorker(datapath.Config{Snapshot: func() *core.Snapshot { return snap }, Flows: 64, Counters: counters.New(1)})
		path.Counts[datapath.Malformed].Store(n)
		return &worker{Worker: status.Worker{Path: path, Loop: &verdict.Loop{}, Sender: &forward.Sender{}}}
	}
	ws := &Set{gone: map[string]uint64{"malformed": 100}, leaving: []*worker{one(10)}}
	ws.list.Store(&[]*worker{one(1), nil, one(2)})
	for range 2 { // asking changes nothing
		m := map[string]uint64{"malformed": 1000}
		if ws.AddTo(m); m["malformed"] != 1113 {
			t.Errorf("%d, want 1113", m["malformed"])
		}
	}
}
