package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
)

// A balancer that hangs is as good as dead: the kernel places new flows after
// two seconds, and gives that up when it goes on. Nobody notices but those who
// come in the first seconds, and they only wait.
func TestHungDaemon(t *testing.T) {
	const hung = 10 * time.Second
	c := inTheKernel(t, cluster.Options{Backends: 3, Timeout: "20s"})
	old := slices.Concat(openLines(t, c, cluster.VIP4, 20), openLines(t, c, cluster.VIP6, 20))
	for _, l := range old {
		must(t, l.ping(pingTimeout)) // now it is established
	}
	p := startPulse(t, old, 20*time.Millisecond, time.Second)
	hang(t, c)
	began := time.Now()
	lines := newWhile(t, c, func(int) bool { return time.Since(began) < hung })
	c.Server.Signal(syscall.SIGCONT)
	await(t, "picks by the policy", func() error {
		before := policyRow(t, c, "web4").Picks["policy"]
		if _, err := httpGet(t, c, cluster.VIP4); err != nil {
			return err
		}
		if policyRow(t, c, "web4").Picks["policy"] == before {
			return fmt.Errorf("still by the kernel")
		}
		return nil
	})
	p.end()
	t.Log(p)
	if len(p.broken) > 0 {
		t.Error("established connections broke")
	}
	for _, l := range old {
		must(t, l.finish())
	}
	for _, l := range lines {
		must(t, l.ping(pingTimeout))
	}
}

// What the kernel placed while the balancer hung stays where it is afterwards,
// to its end, though a backend joins.
func TestFlowsStayPutAfterAHang(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 4, Type: "tc", Timeout: "20s"})
	must(t, c.StartServer(t.Context()))
	for _, b := range c.Backends[:3] {
		must(t, b.StartAgent(t.Context()))
	}
	must(t, c.AwaitActive(t.Context(), 3))
	hang(t, c)
	lines := newWhile(t, c, func(opened int) bool { return opened < 40 })
	c.Server.Signal(syscall.SIGCONT)
	must(t, c.Backends[3].StartAgent(t.Context()))
	must(t, c.AwaitActive(t.Context(), 4))
	moved := 0
	for _, l := range lines {
		if l.ping(pingTimeout) != nil || l.finish() != nil {
			moved++
		}
	}
	if moved > 0 {
		t.Errorf("%d of %d connections were reset at their end", moved, len(lines))
	}
}

// hang stops the balancer and waits until all its threads stand still.
func hang(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	c.Server.Signal(syscall.SIGSTOP)
	await(t, "the balancer to stop", func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", c.Server.Process.Pid))
		for _, f := range threads {
			stat, _ := os.ReadFile(f)
			if !strings.Contains(string(stat), ") T ") {
				err = fmt.Errorf("%.40s", stat)
			}
		}
		return err
	})
}

// newWhile opens connections, a few each second, while more says so. None may
// wait for long: SYNs come again after one and three seconds.
func newWhile(t *testing.T, c *cluster.Cluster, more func(opened int) bool) (lines []*line) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	longest := time.Duration(0)
	for more(len(lines)) {
		begin := time.Now()
		l, err := openLine(t, c, vips[len(lines)%2])
		must(t, err)
		t.Cleanup(func() { l.Close() })
		must(t, l.ping(pingTimeout))
		longest = max(longest, time.Since(begin))
		lines = append(lines, l)
		<-tick.C
	}
	t.Logf("%d new connections, the longest waited %s", len(lines), longest)
	if longest > slow.Time(4*time.Second) {
		t.Errorf("a new connection waited %s", longest)
	}
	return lines
}
