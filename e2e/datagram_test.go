package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
)

// answers sends n datagrams from one socket and counts by whom they are answered.
func answers(t *testing.T, c *cluster.Cluster, n int) map[string]int {
	t.Helper()
	pc := udpSocket(t, c, cluster.VIP4)
	got := map[string]int{}
	for range n {
		name, _, err := udpAskFrom(pc, cluster.VIP4, []byte("x"))
		must(t, err)
		got[name]++
	}
	return got
}

// Each datagram of one socket is scheduled by itself: by round-robin all backends
// get the same, but for a round that a change of the pool cuts off, by a policy's
// table all get some; and no flow is left. A reload makes it so for a socket that
// is at work.
func TestDatagramsAlone(t *testing.T) {
	for policy, least := range map[string]int{"round-robin": 8, "maglev": 1} {
		t.Run(policy, func(t *testing.T) {
			c := start(t, cluster.Options{Backends: 4, Policy: policy})
			pc := udpSocket(t, c, cluster.VIP4)
			home, _, err := udpAskFrom(pc, cluster.VIP4, []byte("x"))
			must(t, err)
			for range 5 {
				if name, _, err := udpAskFrom(pc, cluster.VIP4, []byte("x")); err != nil || name != home {
					t.Fatalf("a flow at %s was answered by %s, %v", home, name, err)
				}
			}
			if out, code := reloadWith(t, c, edit(`name = "echo4"`, "name = \"echo4\"\nudp = \"datagram\"")); code != 0 {
				t.Fatal(out)
			}
			await(t, fmt.Sprintf("at least %d answers of each", least), func() error { // a table is a moment behind
				if got := answers(t, c, 40); len(got) != 4 || minimum(got) < least {
					return fmt.Errorf("answers %v", got)
				}
				return nil
			})
			await(t, "the end of the flow of before", func() error {
				rows, err := c.Control().Flows(t.Context(), api.FlowFilter{Service: "echo4"})
				if err == nil && len(rows) > 0 {
					err = fmt.Errorf("%d flows", len(rows))
				}
				return err
			})
			others := 0
			for range 20 {
				name, _, err := udpAskFrom(pc, cluster.VIP4, []byte("x"))
				must(t, err)
				if name != home {
					others++
				}
			}
			if others == 0 {
				t.Errorf("the socket of before is at %s for good", home)
			}
		})
	}
}

func minimum(counts map[string]int) int {
	least := int(^uint(0) >> 1)
	for _, n := range counts {
		least = min(least, n)
	}
	return least
}

// A balancer that is dead goes on spreading them, by its last lookup table.
func TestDatagramsAloneWhileDead(t *testing.T) {
	c := inTheKernel(t, cluster.Options{Backends: 2})
	if out, code := reloadWith(t, c, edit(`name = "echo4"`, "name = \"echo4\"\nudp = \"datagram\"")); code != 0 {
		t.Fatal(out)
	}
	c.Server.Kill()
	<-time.After(slow.Time(2500 * time.Millisecond)) // until the kernel finds it silent
	if got := answers(t, c, 40); len(got) != 2 {
		t.Errorf("answers %v", got)
	}
}
