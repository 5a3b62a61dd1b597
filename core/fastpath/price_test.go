package fastpath

import (
	"testing"

	"github.com/caplance/caplance/e2e/require"
)

// What is priced is forwarded; how fast it is, tools/bench tells.
func TestPrices(t *testing.T) {
	require.NetNS(t)
	const flows = 1 << 16
	prices, err := TakePrices(t.TempDir(), flows)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range prices.Packets {
		t.Logf("%s: %.0f ns", p.What, p.NS)
		if p.NS <= 0 {
			t.Errorf("%+v", p)
		}
	}
	if len(prices.Packets) != 4 || prices.FlowBytes < 100 || prices.FlowBytes > 129 {
		t.Errorf("%d prices, %.1f bytes a flow", len(prices.Packets), prices.FlowBytes)
	}
}
