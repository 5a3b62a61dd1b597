package policies_test

import (
	"fmt"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/policies"
)

// golden are the first picks of 5 backends weighing 1, 1, 1, 2, 3. Other
// implementations of the policies are held to them.
var golden = map[string][16]int{
	"hash":                       {1, 1, 0, 4, 4, 4, 3, 0, 4, 3, 4, 4, 2, 2, 4, 3},
	"least-bytes":                {2, 3, 4, 0, 1, 4, 3, 4, 2, 3, 4, 0, 1, 4, 3, 4},
	"least-connections":          {2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2},
	"least-load":                 {4, 2, 1, 3, 2, 4, 3, 4, 3, 0, 4, 4, 3, 1, 0, 4},
	"least-packets":              {2, 3, 4, 0, 1, 4, 3, 4, 2, 3, 4, 0, 1, 4, 3, 4},
	"maglev":                     {1, 1, 0, 4, 4, 4, 3, 0, 4, 3, 4, 4, 2, 2, 4, 3},
	"power-of-two-choices":       {4, 2, 1, 3, 2, 4, 3, 4, 3, 0, 4, 0, 3, 1, 4, 4},
	"random":                     {4, 2, 1, 3, 2, 4, 1, 3, 3, 0, 4, 4, 3, 4, 4, 4},
	"round-robin":                {0, 1, 4, 3, 2, 4, 3, 4, 0, 1, 4, 3, 2, 4, 3, 4},
	"source-hash":                {1, 4, 4, 4, 3, 4, 4, 2, 4, 1, 3, 3, 4, 3, 4, 2},
	"sticky-failover":            {1, 1, 0, 4, 4, 4, 3, 0, 4, 3, 4, 4, 2, 2, 4, 3},
	"weighted-least-connections": {2, 3, 4, 0, 1, 4, 3, 4, 2, 3, 4, 0, 1, 4, 3, 4},
	"weighted-round-robin":       {4, 3, 1, 4, 0, 2, 4, 3, 4, 3, 1, 4, 0, 2, 4, 3},
}

func TestGoldenPicks(t *testing.T) {
	for _, name := range policies.Names() {
		s := newWorker(t, name)
		s.SetPool(withTable(t, name, poolOf(1, 1, 1, 2, 3)))
		var got [16]int
		for i := range got {
			f := flowOf(uint64(i))
			got[i] = pick(t, s, &f)
		}
		if got != golden[name] {
			t.Errorf("%s picks %#v, want %#v", name, got, golden[name])
		}
	}
}

// shares picks n flows and counts them by backend.
func shares(t testing.TB, workers []*host.Scheduler, p *core.Pool, n int) []int {
	t.Helper()
	for _, s := range workers {
		s.SetPool(p)
	}
	got := make([]int, p.Eligible)
	for i := range n {
		f := flowOf(uint64(i))
		got[pick(t, workers[i%len(workers)], &f)]++
	}
	return got
}

func TestShares(t *testing.T) {
	tests := []struct {
		policy    string
		workers   int
		weights   []uint32
		flows     int
		tolerance int // flows, per backend
	}{
		{"round-robin", 1, even(3), 300, 0},
		{"round-robin", 4, even(3), 300, 0},
		{"round-robin", 3, even(10), 30, 1}, // few flows, many queues
		{"round-robin", 2, []uint32{1, 2, 3, 10}, 1600, 1},
		{"round-robin", 2, []uint32{1, 1 << 31, 1<<32 - 1}, 3000, 2},
		{"round-robin", 1, even(1000), 3000, 0},
		{"weighted-round-robin", 1, even(3), 300, 0},
		{"weighted-round-robin", 4, even(3), 300, 0},
		{"weighted-round-robin", 3, even(10), 30, 2},
		{"weighted-round-robin", 2, []uint32{1, 2, 3, 10}, 1600, 1},
		{"weighted-round-robin", 1, []uint32{1, 65535}, 65536 * 2, 0},
		{"weighted-round-robin", 2, []uint32{1, 1 << 31, 1<<32 - 1}, 3000, 2},
		{"weighted-round-robin", 1, even(1000), 3000, 0},
		{"random", 1, even(3), 30000, 450},
		{"random", 1, []uint32{1, 2, 3, 10}, 30000, 450},
		{"source-hash", 1, even(3), 60000, 900},
		{"maglev", 1, []uint32{1, 2, 3, 10}, 30000, 450},
		{"sticky-failover", 1, []uint32{1, 2, 3, 10}, 30000, 450},
		{"least-connections", 1, []uint32{1, 2, 3, 10}, 1600, 0}, // weights do not count
		{"least-connections", 4, even(3), 300, 4},
		{"weighted-least-connections", 1, []uint32{1, 2, 3, 10}, 1600, 2},
		{"weighted-least-connections", 1, even(1000), 3000, 0},
		{"least-bytes", 1, []uint32{1, 2, 3, 10}, 1600, 2},
		{"power-of-two-choices", 1, even(10), 3000, 15},
		{"power-of-two-choices", 1, []uint32{1, 2, 3, 10}, 1600, 15},
		{"hash", 1, even(3), 30000, 450},
		{"hash", 1, []uint32{1, 2, 3, 10}, 30000, 450},
		{"least-packets", 1, even(3), 300, 0},
		{"least-packets", 4, even(3), 300, 4},
		{"least-packets", 1, []uint32{1, 2, 3, 10}, 1600, 2},
		{"least-packets", 1, even(1000), 3000, 0},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.policy, "/", len(tt.weights), "x", tt.workers), func(t *testing.T) {
			weights := tt.weights
			got := shares(t, newWorkers(t, tt.policy, tt.workers), withTable(t, tt.policy, poolOf(weights...)), tt.flows)
			if tt.policy == "least-connections" {
				weights = even(len(weights))
			}
			var sum float64
			for _, w := range weights {
				sum += float64(w)
			}
			for i, w := range weights {
				want := float64(tt.flows) * float64(w) / sum
				if d := float64(got[i]) - want; d > float64(tt.tolerance)+0.999 || -d > float64(tt.tolerance)+0.999 {
					t.Errorf("backend %d of weight %d got %d flows, want %.1f ± %d", i, w, got[i], want, tt.tolerance)
				}
			}
		})
	}
}

func TestPickDoesNotAllocate(t *testing.T) {
	for _, name := range policies.Names() {
		s := newWorker(t, name)
		s.SetPool(withTable(t, name, poolOf(even(64)...)))
		f := flowOf(1)
		if n := testing.AllocsPerRun(1000, func() { s.Pick(&f) }); n != 0 {
			t.Errorf("%s: pick allocates %v times, want 0", name, n)
		}
	}
}
