package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/e2e/cluster"
)

// upcalls returns how many packets have come up to the balancer's workers.
func upcalls(t *testing.T, c *cluster.Cluster) (n uint64) {
	t.Helper()
	stats, err := c.Control().Stats(t.Context())
	must(t, err)
	for _, q := range stats.Queues {
		n += q.Packets
	}
	return n
}

// Of a whole TCP connection, from SYN to FIN, one packet comes up to userspace;
// in table mode none does.
func TestOnePacketOfAFlowComesUp(t *testing.T) {
	for policy, want := range map[string]uint64{"round-robin": 1, "maglev": 0} {
		t.Run(policy, func(t *testing.T) {
			c := inTheKernel(t, cluster.Options{Backends: 3, Policy: policy})
			if want == 0 {
				await(t, "the table", func() error {
					if policyRow(t, c, "web4").Table.Built.IsZero() || policyRow(t, c, "web6").Table.Built.IsZero() {
						return fmt.Errorf("not built")
					}
					return nil
				})
			}
			const flows = 200
			before := upcalls(t, c)
			for i := range flows {
				l, err := openLine(t, c, vips[i%2])
				must(t, err)
				must(t, l.ping(pingTimeout))
				must(t, l.finish())
			}
			if n := upcalls(t, c) - before; n != want*flows {
				t.Errorf("%d packets of %d flows came up, want %d", n, flows, want*flows)
			}
		})
	}
}

// caplancectl explains a flow that is there and one that is not, and lists the
// largest first.
func TestExplain(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2})
	small, err := openLine(t, c, cluster.VIP4)
	must(t, err)
	large, err := openLine(t, c, cluster.VIP4)
	must(t, err)
	for range 20 {
		must(t, large.ping(pingTimeout))
	}
	must(t, small.ping(pingTimeout))
	explain := func(client, vip string) string {
		out, code := ctl(t, "explain", client, vip, "-server", c.ServerSocket())
		if code != 0 {
			t.Errorf("exit code %d: %s", code, out)
		}
		return out
	}
	vip := fmt.Sprintf("%v:%d/tcp", cluster.VIP4, cluster.LinePort)
	out := explain(small.LocalAddr().String(), vip)
	where := map[bool]string{true: "in userspace", false: "in kernel"}[c.Type == "userspace"]
	for _, want := range []string{"web4", "established, " + where, "policy, ", small.backend, "last packet"} {
		if !strings.Contains(out, want) {
			t.Errorf("explain lacks %q:\n%s", want, out)
		}
	}
	if out = explain("198.51.100.7:4711", vip); !strings.Contains(out, "not known") || !strings.Contains(out, "policy round-robin is asked") {
		t.Error(out)
	}
	if out = explain("198.51.100.7:4711", "10.77.0.200:81/tcp"); !strings.Contains(out, "10.77.0.200 is a VIP of web4 (tcp 7,80), echo4 (udp 53)") {
		t.Error(out)
	}
	rows, err := c.Control().Flows(t.Context(), api.FlowFilter{Top: true, Limit: 1})
	must(t, err)
	if len(rows) != 1 || rows[0].Src.String() != large.LocalAddr().String() || rows[0].Bytes < 20*50 {
		t.Errorf("the largest flow is %+v", rows)
	}
}

// Half of the SYN-ACKs are lost, and half of the connections are beyond the budget:
// a SYN that is sent again goes where the first one went, and no connection is
// reset.
func TestBudgetAndLostSYNACKs(t *testing.T) {
	const connections, rate = 600, 120
	c := prepare(t, cluster.Options{Backends: 4})
	must(t, c.WriteServerConfig(c.ServerConfig(fmt.Sprintf("max_upcalls = %d", rate/2))))
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	loss, err := c.Client.LoseSYNACKs("eth0")
	must(t, err)
	defer loss.Close()
	tick := time.NewTicker(time.Second / rate)
	defer tick.Stop()
	ended := make(chan error, connections)
	for range connections {
		<-tick.C
		go func() { ended <- shortLine(c) }()
	}
	failed := 0
	for range connections {
		if err := <-ended; err != nil {
			if failed++; failed < 4 {
				t.Error(err)
			}
		}
	}
	n := counted(t, c)
	t.Logf("%d of %d connections failed; %d packets over the budget", failed, connections, n["kernel_over_budget"])
	if c.Type != "userspace" && n["kernel_over_budget"] < connections/4 {
		t.Error("this proves nothing: the budget was not spent")
	}
}

// shortLine opens a connection of the line protocol and has one line echoed. Its
// SYN may have to be sent several times.
func shortLine(c *cluster.Cluster) error {
	l, err := tryLine(c, cluster.VIP4, time.Minute)
	if err != nil {
		return err
	}
	defer l.Close()
	return l.ping(time.Minute)
}

// Above a service's budget the kernel places new flows by the lookup table: all
// connections succeed, and only so many have asked the policy.
func TestUpcallBudget(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 3})
	must(t, c.WriteServerConfig(c.ServerConfig("max_upcalls = 16")))
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	for i := range 200 {
		l, err := openLine(t, c, vips[i%2])
		must(t, err)
		must(t, l.ping(pingTimeout))
		must(t, l.finish())
	}
	stats, err := c.Control().Stats(t.Context())
	must(t, err)
	over, up := stats.Counters["kernel_over_budget"], stats.Counters["kernel_upcalls"]
	if c.Type != "userspace" && (over == 0 || up == 0) {
		t.Errorf("%d packets over the budget, %d upcalls", over, up)
	}
}
