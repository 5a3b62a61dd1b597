package datapath

import (
	"testing"
	"time"
)

// A policy is told of a pool when a packet needs it. Of services that were asked
// before, one takes its new pool each time the policies are ticked.
func TestPoolsWaitForPackets(t *testing.T) {
	r := newRig(t, 1)
	r.setBackends(3, nil, nil)
	w, scheds, now := r.workers[0], r.scheds[0], time.Now()
	tick := func() {
		now = now.Add(2 * time.Second)
		w.Tick(now)
	}
	tick()
	if scheds[0].pool != nil || scheds[1].pool != nil {
		t.Error("policies without packets were told of their pools")
	}
	r.backend(syn(1))
	if scheds[0].pool != r.snap.Pools.Of(0) || scheds[1].pool != nil {
		t.Error("the packet's policy alone is to know its pool")
	}
	r.setBackends(2, nil, nil)
	tick()
	if scheds[0].pool != r.snap.Pools.Of(0) || scheds[1].pool != nil {
		t.Error("an idle policy still has the pool before")
	}
}
