package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/caplance/caplance/core/fastpath"
)

// benchProgram is what a packet costs in the XDP program, whose body is TC's,
// too, and what a flow takes in the kernel.
func benchProgram(ctx context.Context, b *bench) error {
	const flows = 1 << 20
	series := map[string]*series{}
	for i := range b.rounds {
		b.step("program: ns per packet", i+1, b.rounds)
		prices, err := fastpath.TakePrices(filepath.Join(b.dir, "program"), flows)
		if err != nil {
			return err
		}
		for _, p := range prices.Packets {
			if series[p.What] == nil {
				series[p.What] = b.measure(p.What, "program body", "ns", nil)
			}
			series[p.What].add(p.NS)
		}
		if i == 0 {
			b.measure(fmt.Sprintf("kernel's map, %d flows", flows), "memory per flow", "B", nil).add(prices.FlowBytes)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}
