package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
)

// A policy that loops for ever, traps, or answers nonsense every fourth time
// cannot stop traffic: each flow gets through, and one policy does not stall
// the others' queues.
func TestFaultyPoliciesCannotStopTraffic(t *testing.T) {
	for _, tt := range []struct {
		name string
		body []byte
	}{
		{"endless loop", []byte{0x03, 0x40, 0x0c, 0, 0x0b, 0x00}}, // loop br 0 end unreachable
		{"trap", []byte{0x00}},
		{"garbage index", []byte{0x41, 0xff, 0xff, 0x03}}, // i32.const 65535
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := prepare(t, cluster.Options{Backends: 3})
			file := filepath.Join(c.Dir, "faulty.wasm")
			must(t, os.WriteFile(file, cluster.FaultyPolicy(tt.body, 0), 0o644))
			c.Policy = file
			must(t, c.Rewrite())
			must(t, c.StartServer(t.Context()))
			must(t, c.StartAgents(t.Context()))
			lines := openLines(t, c, cluster.VIP6, 5)
			longest := time.Duration(0)
			for range 80 {
				begin := time.Now()
				_, err := httpGet(t, c, cluster.VIP4)
				must(t, err)
				longest = max(longest, time.Since(begin))
			}
			for _, l := range lines {
				must(t, l.ping(5*time.Second))
			}
			row := policyRow(t, c, "web4")
			t.Logf("%d failures, %d replaced, longest request %s: %.90s", row.Failures, row.Replaced, longest, row.LastError)
			if row.Failures == 0 || row.Picks["fallback"] == 0 || row.LastError == "" {
				t.Errorf("the policy never failed: %+v", row)
			}
			if longest > slow.Time(time.Second) {
				t.Errorf("a request took %s", longest)
			}
			// The way back is another policy.
			must(t, c.Control().Swap(t.Context(), "web4", "hash"))
			before := policyRow(t, c, "web4")
			_, err := httpGet(t, c, cluster.VIP4)
			must(t, err)
			after := policyRow(t, c, "web4")
			if after.Quarantined || after.Picks["policy"] != before.Picks["policy"]+1 {
				t.Errorf("after the swap: %+v", after)
			}
		})
	}
}

// max_flows, priority: what agents say reaches the policies and the picks.
func TestFullBackendIsPassedOver(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 2})
	c.Backends[0].Config = "max_flows = 3"
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	got := byBackend(openLines(t, c, cluster.VIP4, 20))
	// A worker sees the others' flows a moment later, so each may fill it once.
	stats, err := c.Control().Stats(t.Context())
	must(t, err)
	if most := 3 * len(stats.Queues); got["b1"] < 3 || got["b1"] > most {
		t.Errorf("b1 takes 3 flows and got %v, at most %d", got, most)
	}
}
