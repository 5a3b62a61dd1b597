package e2e

import (
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caplance/caplance/e2e/cluster"
)

// counts opens n flows, TCP and UDP in turn, one after another, and counts
// where they went.
func counts(t *testing.T, c *cluster.Cluster, vip netip.Addr, n int) map[string]int {
	t.Helper()
	m := map[string]int{}
	for i := range n {
		if i%2 == 0 {
			l, err := openLine(t, c, vip)
			must(t, err)
			l.Close()
			m[l.backend]++
			continue
		}
		name, _, err := udpAsk(t, c, vip, []byte("x"))
		must(t, err)
		m[name]++
	}
	return m
}

// Each bundled policy shares 300 flows as it promises, and every pick was the
// policy's own.
func TestPolicyShares(t *testing.T) {
	const n, backends = 300, 3
	for _, tt := range []struct {
		policy    string
		tolerance int // flows off an even share
	}{
		{"round-robin", 6}, // two services, two workers each: at most one off per instance and backend
		{"least-packets", 30},
		{"hash", int(5 * math.Sqrt(n*(1.0/backends)*(1-1.0/backends)))}, // 5 σ of a fair draw
	} {
		t.Run(tt.policy, func(t *testing.T) {
			c := start(t, cluster.Options{Backends: backends, Policy: tt.policy})
			got := counts(t, c, cluster.VIP4, n)
			t.Logf("%v", got)
			for _, b := range c.Backends {
				if d := got[b.Name] - n/backends; d < -tt.tolerance || d > tt.tolerance {
					t.Errorf("%s got %d of %d flows", b.Name, got[b.Name], n)
				}
			}
			rows, err := c.Control().Services(t.Context())
			must(t, err)
			for _, r := range rows {
				if r.Picks["fallback"] != 0 || r.Failures != 0 {
					t.Errorf("%s: the policy failed: %+v", r.Name, r)
				}
			}
		})
	}
}

// Weights that agents announce are honoured.
func TestWeights(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 2, Policy: "round-robin"})
	c.Backends[0].Config = "weight = 3"
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	got := counts(t, c, cluster.VIP4, 200)
	if d := got["b1"] - 150; d < -8 || d > 8 {
		t.Errorf("weights 3:1 gave %v", got)
	}
}

// A backend that joins takes its share of the new flows, not all of them.
func TestNewcomerTakesItsShare(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 3, Policy: "least-packets"})
	must(t, c.StartServer(t.Context()))
	must(t, c.Backends[0].StartAgent(t.Context()))
	must(t, c.Backends[1].StartAgent(t.Context()))
	must(t, c.AwaitActive(t.Context(), 2))
	counts(t, c, cluster.VIP4, 200)
	must(t, c.Backends[2].StartAgent(t.Context()))
	must(t, c.AwaitActive(t.Context(), 3))
	got := counts(t, c, cluster.VIP4, 120)
	if got["b3"] < 34 || got["b3"] > 46 {
		t.Errorf("the newcomer got %d of 120 flows: %v", got["b3"], got)
	}
}

// A policy of one's own is dropped in by its path; a missing or a broken one
// is a start-up error that names the service.
func TestDropInPolicy(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 3, Policy: "hash"})
	source, err := filepath.Abs("../policies/round-robin.wasm")
	must(t, err)
	wasm, err := os.ReadFile(source)
	must(t, err)
	mine := filepath.Join(c.Dir, "mine.wasm")
	must(t, os.WriteFile(mine, wasm, 0o644))
	c.Policy = mine
	must(t, c.Rewrite())
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	got := counts(t, c, cluster.VIP6, 60)
	for _, b := range c.Backends {
		if got[b.Name] < 16 || got[b.Name] > 24 {
			t.Errorf("round-robin from a file gave %v", got)
		}
	}
	must(t, c.StopServer())

	must(t, os.WriteFile(mine, wasm[:100], 0o644))
	for _, p := range []string{mine, filepath.Join(c.Dir, "missing.wasm")} {
		c.Policy = p
		must(t, c.Rewrite())
		err := c.StartServer(t.Context())
		if err == nil || !strings.Contains(err.Error(), `service "web4"`) {
			t.Errorf("%s: %v", filepath.Base(p), err)
		}
		if out, code := caplance(t, "server", "-t", "-c", c.ServerFile()); code != 1 || !strings.Contains(out, `service "web4"`) {
			t.Errorf("%s: -t: exit code %d: %s", filepath.Base(p), code, out)
		}
	}
	c.Server = nil
}
