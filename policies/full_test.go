package policies_test

import (
	"slices"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/policies"
)

// A backend takes max_flows and no more, the others the rest, and when all are
// full nobody gets any.
func TestFullBackendsArePassedOver(t *testing.T) {
	for _, name := range policies.Names() {
		t.Run(name, func(t *testing.T) {
			all := backends(even(4)...)
			for i, most := range []uint32{3, 40, 20, 7} {
				all[i].MaxFlows = most
			}
			s := newWorker(t, name)
			s.SetPool(withTable(t, name, core.NewPoolBuilder(service).Build(all)))
			var got [4]int
			for i := range uint64(70) {
				f := flowOf(i)
				b, by := s.Pick(&f)
				if b < 0 {
					t.Fatalf("flow %d is placed by %s: %s", i, by, s.Stats().LastError)
				}
				got[b]++
			}
			if got != [4]int{3, 40, 20, 7} {
				t.Errorf("backends got %v flows", got)
			}
			f := flowOf(71)
			if b, by := s.Pick(&f); b >= 0 || by != core.ByNobody {
				t.Errorf("when all are full the pick is %d by %s", b, by)
			}
		})
	}
}

// The policy itself finds the place of a flow whose backend is full: at once
// or when it is asked again.
func TestPolicyFindsWhoIsNotFull(t *testing.T) {
	for _, name := range policies.Names() {
		if name == "maglev" { // it is not asked
			continue
		}
		all := backends(even(50)...)
		for i := range all {
			all[i].MaxFlows = 1
		}
		s := newWorker(t, name)
		s.SetPool(core.NewPoolBuilder(service).Build(all))
		for i := range uint64(50) {
			f := flowOf(i)
			pick(t, s, &f)
			if f.Attempt > 1 {
				t.Errorf("%s: flow %d took %d attempts", name, i, f.Attempt+1)
			}
		}
	}
}

// All flows of a client go to one backend.
func TestSourceHashAffinity(t *testing.T) {
	s := newWorker(t, "source-hash")
	s.SetPool(poolOf(even(10)...))
	var used []int
	for client := range uint64(200) {
		f := flowOf(client)
		first := pick(t, s, &f)
		for port := range uint16(20) {
			f.Key.SrcPort = port
			f.Hash = f.Key.Hash(7)
			if got := pick(t, s, &f); got != first {
				t.Fatalf("client %d goes to %d and %d", client, first, got)
			}
		}
		if !slices.Contains(used, first) {
			used = append(used, first)
		}
	}
	if len(used) != 10 {
		t.Errorf("200 clients use %d of 10 backends", len(used))
	}
}

func TestStickyFailover(t *testing.T) {
	s := newWorker(t, "sticky-failover")
	all := backends(even(6)...)
	for i := range all {
		all[i].Priority = uint32(i / 2 * 10)
	}
	builder := core.NewPoolBuilder(service)
	// served is who gets flows while the named backends are down.
	served := func(down ...int) []int {
		now := slices.Clone(all)
		for _, i := range down {
			now[i].State = core.Unhealthy
		}
		p := builder.Build(now)
		s.SetPool(p)
		seen := map[string]bool{}
		for i := range uint64(200) {
			f := flowOf(i)
			seen[p.Members[pick(t, s, &f)].Name] = true
		}
		var out []int
		for i := range all {
			if seen[all[i].Name] {
				out = append(out, i)
			}
		}
		return out
	}
	for _, tt := range []struct{ down, want []int }{
		{nil, []int{0, 1}},
		{[]int{0}, []int{1}},
		{[]int{0, 1}, []int{2, 3}},
		{[]int{0, 1, 2, 3}, []int{4, 5}},
		{[]int{2, 3}, []int{0, 1}},
	} {
		if got := served(tt.down...); !slices.Equal(got, tt.want) {
			t.Errorf("while %v are down %v serve, want %v", tt.down, got, tt.want)
		}
	}
	s.Tick(1)
	if m := s.Stats().Metrics; len(m) != 3 || m[0].Name != "serving_priority" || m[1].Value != 2 {
		t.Errorf("metrics are %v", m)
	}
}
