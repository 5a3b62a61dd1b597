package policies_test

import (
	"os"
	"strings"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/policies"
)

// docs/bundled-policies.md says of each policy what it does.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../docs/bundled-policies.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{}
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) == 8 {
			for i, c := range cells {
				cells[i] = strings.Trim(c, " `\n")
			}
			rows[cells[1]] = cells
		}
	}
	said := map[bool]string{true: "yes", false: "no"}
	for _, name := range policies.Names() {
		row := rows[name]
		if row == nil {
			t.Errorf("%s is not on the page", name)
			continue
		}
		weighted, ramped := honours(t, name)
		for i, want := range map[int]string{2: policies.Describe(name), 3: said[weighted], 4: said[ramped], 5: said[policies.Consistent(name)]} {
			if row[i] != want {
				t.Errorf("%s: %q, want %q", name, row[i], want)
			}
		}
	}
	if n := len(policies.Names()); len(rows) != n+2 { // two headings
		t.Errorf("%d rows, %d policies", len(rows)-2, n)
	}
}

// honours reports, by what a policy picks, whether weights and slow start count.
func honours(t *testing.T, name string) (weights, slowStart bool) {
	t.Helper()
	second := func(weight, ramp uint32) float64 { // its share beside a backend of weight 1
		pool := core.NewPoolBuilder(service).Build(backends(1, weight))
		pool.Members[1].Ramp = ramp
		s := newWorker(t, name)
		s.SetPool(withTable(t, name, pool))
		active, packets, bytes := make([]uint32, 2), make([]uint64, 2), make([]uint64, 2)
		const flows, last = 8000, 200 // each is open while so many others come
		var open []int
		got := 0
		for k := range uint64(flows) {
			f := flowOf(k)
			b := pick(t, s, &f)
			if open = append(open, b); len(open) > last {
				active[open[0]]--
				open = open[1:]
			}
			active[b]++
			packets[b]++
			bytes[b] += 10000
			got += b
			if k%10 == 9 {
				s.Refresh(active, packets, bytes)
			}
		}
		return float64(got) / flows
	}
	three, ramping := second(3, core.FullRamp), second(1, core.FullRamp/5)
	t.Logf("%s: %.2f of the flows with weight 3, %.2f at a fifth of slow start", name, three, ramping)
	return three > .6, ramping < .4
}
