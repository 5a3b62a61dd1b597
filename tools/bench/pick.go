package main

import (
	"context"
	"fmt"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/policies"
)

// benchPick measures the price of asking each bundled policy: the flow record
// filled, the call into the guest, the counters.
func benchPick(ctx context.Context, b *bench) error {
	svc := &core.Service{Name: "pick", Protos: []uint8{core.ProtoTCP}, Ports: []core.PortRange{core.AllPorts}}
	type entry struct {
		policy     string
		ns, allocs *series
	}
	var entries []entry
	for _, name := range policies.Names() {
		system := fmt.Sprintf("%s, %d backends", name, backendCount)
		entries = append(entries, entry{name, b.measure(system, "pick", "ns", nil), b.measure(system, "pick", "allocations", nil)})
	}
	for i := range b.rounds {
		b.step("pick: each bundled policy", i+1, b.rounds)
		for _, e := range entries {
			s, stop, err := scheduler(ctx, e.policy)
			if err != nil {
				return err
			}
			s.SetPool(poolOf(svc))
			f := core.NewFlow{Family: 4, Flags: core.FlowSYN}
			r := testing.Benchmark(func(tb *testing.B) {
				tb.ReportAllocs()
				for tb.Loop() {
					f.Hash += 0x9e3779b97f4a7c15
					s.Pick(&f)
				}
			})
			e.ns.add(float64(r.T.Nanoseconds()) / float64(r.N))
			e.allocs.add(float64(r.MemAllocs) / float64(r.N))
			if err := stop(); err != nil {
				return err
			}
		}
	}
	return nil
}
