package e2e

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
)

// With the defaults of lease and checks a machine that is dead gets no new flows after
// 5 s at most, a dead service after 2 s, and a dead path after 4 s.
func TestDetection(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 4})
	config := regexp.MustCompile(`(?m)^(lease|grace|plain_lease|rejoin) = .*\n`).ReplaceAllString(c.ServerConfig(""), "")
	must(t, c.WriteServerConfig(config+fmt.Sprintf("\n[[service]]\nname = \"late\"\nvip = %q\nprotocol = \"tcp\"\nports = [4000]\n", cluster.VIP4)))
	var servers []net.Listener
	for _, b := range c.Backends {
		l, err := b.Listen("0.0.0.0:4000")
		must(t, err)
		defer l.Close()
		servers = append(servers, l)
	}
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	failures := []struct { // one at each backend, all at once
		what  string
		fail  func(b *cluster.Backend) error
		limit time.Duration
	}{
		{"service", func(*cluster.Backend) error { return servers[0].Close() }, 2 * time.Second},
		{"path", func(b *cluster.Backend) error {
			loss, err := b.LoseUDP("eth0", 1337, 0)
			if err == nil {
				t.Cleanup(func() { loss.Close() })
			}
			return err
		}, 4 * time.Second},
		{"agent that hangs", func(b *cluster.Backend) error { b.Agent.Signal(syscall.SIGSTOP); return nil }, 5 * time.Second},
		{"machine", func(b *cluster.Backend) error { return b.SetUp("eth0", false) }, 5 * time.Second},
	}
	defer c.Backends[2].Agent.Signal(syscall.SIGCONT) // so that it can be stopped
	must(t, c.AwaitActive(t.Context(), len(failures)))
	began := time.Now()
	for i, f := range failures {
		must(t, f.fail(c.Backends[i]))
	}
	found := map[string]time.Duration{}
	await(t, "all to be found dead", func() error {
		rows, err := c.Control().BackendsOf(t.Context(), api.BackendFilter{Service: "late"})
		if err != nil {
			return err
		}
		for i, f := range failures {
			active := slices.ContainsFunc(rows, func(r api.BackendRow) bool { return r.Name == c.Backends[i].Name && r.State == core.Active })
			if _, ok := found[f.what]; !ok && !active {
				found[f.what] = time.Since(began)
			}
		}
		if len(found) < len(failures) {
			return fmt.Errorf("only these: %v", found)
		}
		return nil
	})
	for _, f := range failures {
		t.Logf("dead %s: no new flows after %s", f.what, found[f.what].Round(10*time.Millisecond))
		if found[f.what] > slow.Time(f.limit) {
			t.Errorf("a dead %s was found after %s, want %s at most", f.what, found[f.what], f.limit)
		}
	}
}
