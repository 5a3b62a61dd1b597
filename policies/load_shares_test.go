package policies_test

import (
	"testing"

	"github.com/caplance/caplance/core"
)

// The less the CPUs of a backend are pressed, the more it gets, and the most pressed
// one still gets some: its load is seconds old. Loads that are not known, or alike,
// leave it to the open flows.
func TestLeastLoadShares(t *testing.T) {
	for _, tt := range []struct {
		loads  [4]string
		shares [4]float64 // of the flows
	}{
		{[4]string{"0.4", "1.2", "3.1", "4.9"}, [4]float64{.25, .25, .25, .25}},
		{[4]string{"", "", "", ""}, [4]float64{.25, .25, .25, .25}},
		{[4]string{"5", "20", "60", "99"}, [4]float64{7. / 16, 5. / 16, 3. / 16, 1. / 16}},
		{[4]string{"10", "10", "10", "90"}, [4]float64{5. / 16, 5. / 16, 5. / 16, 1. / 16}},
	} {
		s, all := newWorker(t, "least-load"), backends(even(4)...)
		for i := range all {
			all[i].Vitals = new(core.Vitals)
		}
		s.SetPool(core.NewPoolBuilder(service).Build(all))
		for i := range all {
			all[i].Vitals.SetLoad(core.ParseLoad(tt.loads[i]))
		}
		s.Refresh(nil, nil, nil) // heartbeats change no pool
		const flows = 20000
		var got [4]float64
		for i := range uint64(flows) {
			f := flowOf(i)
			got[pick(t, s, &f)] += 1. / flows
		}
		for i, want := range tt.shares {
			if d := got[i] - want; d < -.02 || d > .02 {
				t.Errorf("loads %v: shares %.3f, want %.3f", tt.loads, got, tt.shares)
				break
			}
		}
	}
}
