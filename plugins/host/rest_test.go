package host_test

import (
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
)

// A scheduler that rested picks as one that did not, and one with a pool does
// not rest.
func TestRest(t *testing.T) {
	s := newScheduler(t, testdata(t, "modulo.wasm"), host.Config{})
	s.Rest()
	s.Tick(1)
	f := flowOf(0)
	if i, by := s.Pick(&f); i != -1 || by != core.ByNobody {
		t.Errorf("pick without a pool is %d by %s, want -1 by nobody", i, by)
	}
	s.SetPool(poolOf(5))
	s.Rest()
	for n := range uint64(10) {
		f := flowOf(n)
		if i, by := s.Pick(&f); i != int(f.Hash%5) || by != core.ByPolicy {
			t.Errorf("pick %d is %d by %s, want %d by policy", n, i, by, f.Hash%5)
		}
	}
	if st := s.Stats(); st.Failures != 0 || st.Replaced != 0 {
		t.Errorf("stats are %+v, want no failure", st)
	}
}

// BenchmarkWake is what the first packet of a service pays.
func BenchmarkWake(b *testing.B) {
	wasm := testdata(b, "modulo.wasm")
	pool := poolOf(20)
	for b.Loop() {
		b.StopTimer()
		s := newScheduler(b, wasm, host.Config{})
		s.Rest()
		b.StartTimer()
		s.SetPool(pool)
	}
}
