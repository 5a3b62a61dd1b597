package policies_test

import (
	"fmt"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/policies"
)

func BenchmarkPick(b *testing.B) {
	for _, name := range policies.Names() {
		for _, n := range []int{2, 64, 1000} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				s := newWorker(b, name)
				s.SetPool(poolOf(even(n)...))
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

// BenchmarkSetPool alternates between two pools, so that each is news.
func BenchmarkSetPool(b *testing.B) {
	for _, name := range policies.Names() {
		for _, n := range []int{2, 64, 1000} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				s := newWorker(b, name)
				builder := core.NewPoolBuilder(service)
				pools := [2]*core.Pool{builder.Build(backends(even(n)...)), builder.Build(backends(even(n + 1)...))}
				for i := 0; b.Loop(); i++ {
					s.SetPool(pools[i%2])
				}
			})
		}
	}
}
