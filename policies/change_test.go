package policies_test

import (
	"testing"

	"github.com/caplance/caplance/core"
)

// Round-robin goes on where it was when the pool changes.
func TestRoundRobinGoesOnAfterAChange(t *testing.T) {
	s := newWorker(t, "round-robin")
	builder, all := core.NewPoolBuilder(service), backends(even(6)...)
	s.SetPool(builder.Build(all[:5]))
	next := func() int {
		f := flowOf(0)
		return pick(t, s, &f)
	}
	for want := range 3 {
		if got := next(); got != want {
			t.Fatalf("pick is %d, want %d", got, want)
		}
	}
	s.SetPool(builder.Build(all)) // b5 joins; b3 is next
	var seen [6]int
	if got := next(); got != 3 {
		t.Errorf("pick after a backend joined is %d, want 3", got)
	}
	for range 6 * 10 {
		seen[next()]++
	}
	for i, n := range seen {
		if n < 9 || n > 11 {
			t.Errorf("backend %d got %d of 60 flows, want 10", i, n)
		}
	}
}

// A backend that joins least-packets takes its share, not everything.
func TestLeastPacketsNewcomer(t *testing.T) {
	s := newWorker(t, "least-packets")
	builder, all := core.NewPoolBuilder(service), backends(even(4)...)
	s.SetPool(builder.Build(all[:3]))
	global := []uint64{1_000_000, 1_000_040, 1_000_010}
	s.Refresh(nil, global, nil)
	s.SetPool(builder.Build(all))
	global = append(global, 0)
	var got [4]int
	for i := range uint64(400) {
		f := flowOf(i)
		b := pick(t, s, &f)
		got[b]++
		if global[b]++; i%50 == 0 {
			s.Refresh(nil, global, nil)
		}
	}
	for i, want := range []int{113, 73, 103, 113} { // 450 packets to level out
		if d := got[i] - want; d < -2 || d > 2 {
			t.Errorf("backend %d got %d flows, want %d ± 2", i, got[i], want)
		}
	}
}

// hash moves no flow but those of the backend that left.
func TestHashDisruption(t *testing.T) {
	s := newWorker(t, "hash")
	builder, all := core.NewPoolBuilder(service), backends(even(10)...)
	const flows = 20000
	picks := func() []int {
		out := make([]int, flows)
		for i := range out {
			f := flowOf(uint64(i))
			out[i] = pick(t, s, &f)
		}
		return out
	}
	s.SetPool(builder.Build(all))
	before := picks()
	s.SetPool(builder.Build(all[:9])) // b9 leaves, the indices of the others stay
	moved := 0
	for i, now := range picks() {
		if before[i] != 9 && before[i] != now {
			moved++
		}
	}
	if moved > flows/50 { // Maglev's own disturbance (paper, §5.3)
		t.Errorf("%d of %d flows of other backends moved, want at most 2 %%", moved, flows)
	}
}
