package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caplance/caplance/e2e/cluster"
)

// faulty builds a policy that behaves until the hash of a flow ends in two zero
// bits, and then does what body says. A wasm module is short enough to write
// by hand: sections type, function, memory, export, code.
func faulty(body []byte) []byte {
	section := func(id byte, items ...[]byte) []byte {
		out := []byte{byte(len(items))}
		for _, i := range items {
			out = append(out, i...)
		}
		return append([]byte{id, byte(len(out))}, out...)
	}
	export := func(name string, kind, index byte) []byte {
		return append(append([]byte{byte(len(name))}, name...), kind, index)
	}
	code := func(b ...byte) []byte { return append([]byte{byte(len(b) + 2), 0}, append(b, 0x0b)...) }
	pick := []byte{0x20, 0, 0x42, 3, 0x83, 0x50, 0x04, 0x7f}  // if (hash & 3) == 0 → i32
	pick = append(append(pick, body...), 0x05, 0x41, 0, 0x0b) // else 0
	out := []byte("\x00asm\x01\x00\x00\x00")
	out = append(out, section(1, []byte{0x60, 0, 0}, []byte{0x60, 2, 0x7f, 0x7f, 1, 0x7f}, []byte{0x60, 2, 0x7e, 0x7f, 1, 0x7f})...)
	out = append(out, section(3, []byte{0}, []byte{1}, []byte{1}, []byte{2})...)
	out = append(out, section(5, []byte{1, 1, 1})...)
	out = append(out, section(7, export("memory", 2, 0), export("caplance_abi_v1", 0, 0), export("caplance_buffer", 0, 1),
		export("caplance_backends", 0, 2), export("caplance_pick", 0, 3))...)
	return append(out, section(10, code(), code(0x41, 0), code(0x41, 0), code(pick...))...)
}

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
			must(t, os.WriteFile(file, faulty(tt.body), 0o644))
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
			if longest > time.Second {
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
