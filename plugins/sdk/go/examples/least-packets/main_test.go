package main

import (
	"testing"

	caplance "github.com/caplance/caplance/plugins/sdk/go"
)

// A policy is tested as any other code is: no balancer, no WebAssembly.
func TestSharesFollowWeights(t *testing.T) {
	pool := &caplance.Pool{
		Backends: []caplance.Backend{{ID: 1, Weight: 1, Ramp: 1000}, {ID: 2, Weight: 2, Ramp: 1000}, {ID: 3, Weight: 3, Ramp: 1000}},
		Eligible: 3,
		Packets:  make([]uint64, 3),
		Info:     caplance.Info{Workers: 1, Epoch: 1},
	}
	policy := &leastPackets{}
	if err := policy.SetPool(pool); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(600) {
		pool.Packets[policy.Pick(&caplance.Flow{Hash: i, Rand: i}, pool)]++
	}
	for i, want := range []uint64{100, 200, 300} {
		if got := pool.Packets[i]; got+1 < want || got > want+1 {
			t.Errorf("backend %d got %d packets, want %d", i, got, want)
		}
	}
}
