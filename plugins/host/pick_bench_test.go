package host_test

import (
	"fmt"
	"testing"

	"github.com/caplance/caplance/plugins/host"
)

// BenchmarkPick is what the host itself costs: a guest of two instructions,
// the same timed now and then, and none at all. policies has the one for the bundled policies.
func BenchmarkPick(b *testing.B) {
	for _, by := range []string{"modulo", "watched", "fallback"} {
		for _, n := range []int{2, 64, 1000} {
			b.Run(fmt.Sprintf("%s/%d", by, n), func(b *testing.B) {
				wasm := testdata(b, "modulo.wasm")
				if by == "fallback" {
					wasm = testdata(b, "trap-in-backends.wasm")
				}
				var clocks *host.Clocks
				if by == "watched" {
					clocks = host.RealClocks()
				}
				s := newScheduler(b, wasm, host.Config{Clocks: clocks})
				s.SetPool(poolOf(n))
				f := flowOf(1)
				b.ReportAllocs()
				for b.Loop() {
					f.Hash += 0x9e3779b97f4a7c15
					s.Pick(&f)
				}
			})
		}
	}
}
