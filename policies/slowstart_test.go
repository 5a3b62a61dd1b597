package policies_test

import (
	"testing"

	"github.com/caplance/caplance/core"
)

// A backend in slow start gets its share of the share, neither nothing nor all
// that it lacks, in every policy that knows of slow start.
func TestSlowStart(t *testing.T) {
	for _, name := range []string{
		"weighted-round-robin", "random", "power-of-two-choices", "least-load",
		"least-connections", "weighted-least-connections", "least-packets", "least-bytes",
	} {
		t.Run(name, func(t *testing.T) {
			s, builder, all := newWorker(t, name), core.NewPoolBuilder(service), backends(even(5)...)
			active, packets, bytes := make([]uint32, 5), make([]uint64, 5), make([]uint64, 5)
			p := builder.Build(all[:4])
			var flow uint64
			// run places flows that last for 1000 others each and counts the newcomer's.
			var open []int
			run := func(flows int) (newcomers float64) {
				for k := range flows {
					f := flowOf(flow)
					flow++
					b := pick(t, s, &f)
					if open = append(open, b); len(open) > 1000 {
						active[open[0]]--
						open = open[1:]
					}
					active[b]++
					packets[b]++
					bytes[b] += 10000
					if b == 4 {
						newcomers++
					}
					if k%20 == 19 {
						s.Refresh(active[:len(p.Members)], packets, bytes)
					}
				}
				return newcomers / float64(flows)
			}
			s.SetPool(p)
			run(4000)
			last := 0.0
			for _, ramp := range []uint32{100, 400, 700, 1000} {
				p = builder.Build(all)
				p.Members[4].Ramp = ramp
				s.SetPool(p)
				share := float64(ramp) / 1000
				want := share / (4 + share)
				run(1000)
				got := run(2000)
				if got < want*0.6-0.01 || got > want*1.4+0.01 || got < last {
					t.Errorf("at %d ‰ the newcomer gets %.3f of the flows, want about %.3f", ramp, got, want)
				}
				last = got * 0.9
			}
		})
	}
}
