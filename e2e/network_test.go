package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/caplance/caplance/e2e/cluster"
)

// allWorks sends all kinds of traffic through both VIPs: every backend answers
// TCP and UDP, a connection goes on, a long upload arrives whole.
func allWorks(t *testing.T, c *cluster.Cluster, vips ...netip.Addr) {
	t.Helper()
	data := make([]byte, 10<<20)
	rand.Read(data)
	sum := fmt.Sprintf("%x", sha256.Sum256(data))
	for _, vip := range vips {
		names := map[string]bool{}
		for range 2 * len(c.Backends) {
			name, err := httpGet(t, c, vip)
			must(t, err)
			names[name] = true
			_, from, err := udpAsk(t, c, vip, []byte("hello"))
			must(t, err)
			if from != netip.AddrPortFrom(vip, cluster.UDPPort) {
				t.Errorf("the answer came from %v, not from %v", from, vip)
			}
		}
		if len(names) != len(c.Backends) {
			t.Errorf("%v: backends %v answered", vip, names)
		}
		for _, l := range openLines(t, c, vip, 4) {
			for range 5 {
				must(t, l.ping(pingTimeout))
			}
		}
		must(t, upload(t, c, vip, bytes.NewReader(data), int64(len(data)), sum))
	}
}

// The backends are in another network: the tunnel crosses the router, and so
// do their answers, straight to the client.
func TestBackendsBehindARouter(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("tunnel over IPv6 %v", v6), func(t *testing.T) {
			c := start(t, cluster.Options{Backends: 3, Routed: true, DataV6: v6})
			seen := sniff(t, c.LB, c.Link())
			allWorks(t, c, vips...)
			inKernel(t, c)
			if _, replies := seen(); replies != 0 {
				t.Errorf("the balancer saw %d replies", replies)
			}
		})
	}
}

// Balancer and agents are on different datapath types.
func TestMixedTypes(t *testing.T) {
	agents := "userspace"
	if os.Getenv("CAPLANCE_TYPE") == "userspace" {
		agents = "tc"
	}
	c := start(t, cluster.Options{Backends: 3, Agents: agents, Mode: "tunnel"})
	allWorks(t, c, vips...)
	stats, err := c.Control().Stats(t.Context())
	must(t, err)
	if n := stats.Counters["kernel_forwarded"]; n != 0 {
		t.Errorf("the kernel forwarded %d packets to agents that cannot take them", n)
	}
}

// A backend has a mode of its own, whatever its services say; one behind a
// router cannot have direct.
func TestModeOfABackend(t *testing.T) {
	for name, routed := range map[string]bool{"on the link": false, "behind a router": true} {
		t.Run(name, func(t *testing.T) {
			c := prepare(t, cluster.Options{Backends: 2, Mode: "tunnel", Routed: routed})
			c.Backends[0].Config = `mode = "direct"`
			must(t, c.StartServer(t.Context()))
			must(t, c.StartAgents(t.Context()))
			allWorks(t, c, vips...)
			rows, err := c.Control().Backends(t.Context())
			must(t, err)
			for _, r := range rows {
				want := "tunnel"
				if r.Name == "b1" && strings.HasSuffix(r.Service, "4") && !routed { // its data IP is IPv4
					want = "direct"
				}
				if r.Mode != want {
					t.Errorf("%s in %s is in mode %s, want %s", r.Name, r.Service, r.Mode, want)
				}
			}
		})
	}
}

// inKernel checks on a datapath type in the kernel that traffic did take the fast path.
func inKernel(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	stats, err := c.Control().Stats(t.Context())
	must(t, err)
	if c.Type != "userspace" && stats.Counters["kernel_forwarded"] < 100 {
		t.Errorf("the kernel forwarded %d packets: counters %v", stats.Counters["kernel_forwarded"], stats.Counters)
	}
}

// The operator has given the VIP to the balancer's machine before, on its link
// or on lo: that works, and the address is still there afterwards.
func TestVIPOfTheOperator(t *testing.T) {
	for name, given := range map[string]map[string]string{
		"host routes on the link": {"10.77.0.200/32": "eth0", "fd77::200/128": "eth0"},
		"networks on the link":    {"10.77.0.200/24": "eth0", "fd77::200/64": "eth0"},
		"on lo":                   {"10.77.0.200/32": "lo", "fd77::200/128": "lo"},
	} {
		t.Run(name, func(t *testing.T) {
			c := prepare(t, cluster.Options{Backends: 2})
			for vip, link := range given {
				must(t, c.LB.AddAddr(link, netip.MustParsePrefix(vip)))
			}
			before := footprint(t, c, c.LB)
			must(t, c.StartServer(t.Context()))
			must(t, c.StartAgents(t.Context()))
			allWorks(t, c, vips...)
			must(t, c.StopServer())
			same(t, "balancer", before, footprint(t, c, c.LB))
		})
	}
}
