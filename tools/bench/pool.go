package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/caplance/caplance/core"
)

// benchPool measures the time from a change of the backends to the pool that holds
// it, lookup table included, when one of 1 000 comes or goes.
func benchPool(ctx context.Context, b *bench) error {
	const backends, metric = 1000, "a change of 1 000 backends"
	removal := b.measure("pool and lookup table, one removed", metric, "ms", nil)
	addition := b.measure("pool and lookup table, one added", metric, "ms", nil)
	svc := &core.Service{Name: "pool", Protos: []uint8{core.ProtoTCP}, Ports: []core.PortRange{core.AllPorts}}
	all := make([]core.Backend, backends)
	for i := range all {
		addr := netip.AddrFrom4([4]byte{10, 78, byte(i >> 8), byte(i)})
		all[i] = core.Backend{Name: fmt.Sprintf("b%d", i), Addr: addr, Weight: 1, Since: time.Unix(1, 0), TunnelMTU: 1472}
	}
	builder := core.NewPoolBuilder(svc)
	builder.Build(all)
	for i := range b.rounds {
		b.step("pool: one of 1 000 backends", i+1, b.rounds)
		for _, change := range []struct {
			*series
			to []core.Backend
		}{{removal, all[:backends-1]}, {addition, all}} {
			begin := time.Now()
			p := builder.Build(change.to)
			change.add(float64(time.Since(begin).Microseconds()) / 1000)
			if p.Eligible != len(change.to) {
				return fmt.Errorf("pool has %d eligible backends of %d", p.Eligible, len(change.to))
			}
		}
	}
	return ctx.Err()
}
