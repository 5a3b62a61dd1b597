package fastpath

import "testing"

// What is priced is forwarded; how fast, the benchmark tells.
func TestPrices(t *testing.T) {
	name, _ := testLink(t)
	prices, err := Prices(name, t.TempDir(), 1, 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range prices {
		t.Logf("%s: %.0f ns", p.What, p.Samples)
		if len(p.Samples) != 1 || p.Samples[0] <= 0 {
			t.Errorf("%+v", p)
		}
	}
}
