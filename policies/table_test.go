package policies_test

import (
	"context"
	"slices"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/policies/reference"
)

func buildTable(t testing.TB, pool *core.Pool) *core.Lookup {
	t.Helper()
	l, err := compile(t, "maglev").BuildTable(context.Background(), host.Config{Workers: 1}, pool)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// maglev's table is the balancer's own lookup table.
func TestMaglevTable(t *testing.T) {
	for _, weights := range [][]uint32{{1}, {7}, even(3), {1, 2, 3, 10}, even(64), {1, 1 << 31, 1<<32 - 1, 5}, even(1000)} {
		pool := poolOf(weights...)
		got := buildTable(t, pool)
		if !slices.Equal(got.Slots(), reference.Table(pool).Slots()) {
			t.Errorf("table of %d backends is not the reference's", len(weights))
		}
		if len(weights) != 6 && weights[0] == weights[len(weights)-1] && !slices.Equal(got.Slots(), pool.Lookup.Slots()) {
			t.Errorf("table of %d equal backends is not core.NewLookup's", len(weights))
		}
	}
}

// The lightest beside the heaviest has a slot.
func TestMaglevTableLeavesNobodyOut(t *testing.T) {
	weights := append(even(4000), 65535)
	counts := make([]int, len(weights))
	for _, s := range buildTable(t, poolOf(weights...)).Slots() {
		counts[s]++
	}
	for i, n := range counts[:4000] {
		if n == 0 {
			t.Errorf("backend %d has no slot", i)
		}
	}
}

// One of ten leaves: how many of the others' slots move (issue 3 wants at most
// 1 %; the paper has the same order, section 5.3).
func TestMaglevDisruption(t *testing.T) {
	builder, all := core.NewPoolBuilder(service), backends(even(10)...)
	before := buildTable(t, builder.Build(all))
	pool := builder.Build(all[:9])
	d := core.Disruption(pool, before, buildTable(t, pool))
	t.Logf("disruption %.2f %%", 100*d)
	if d > 0.02 {
		t.Errorf("%.2f %% of the others' slots moved", 100*d)
	}
}
