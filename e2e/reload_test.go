package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caplance/caplance/e2e/cluster"
)

// A changed agent file takes effect on SIGHUP in the session that there is: the
// flows stay, and what cannot change is refused by name with nothing changed.
func TestAgentReload(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2, Policy: "round-robin"})
	b := c.Backends[0]
	lines := openLines(t, c, cluster.VIP4, 8)
	reload := func(config string) {
		t.Helper()
		b.Config = config
		if _, err := b.WriteConfig(); err != nil {
			t.Fatal(err)
		}
		b.Agent.Signal(syscall.SIGHUP)
	}
	reload(`weight = 7`)
	await(t, "the weight of b1", func() error {
		rows, err := c.Control().Backends(t.Context())
		for _, r := range rows {
			if r.Name == b.Name && r.Weight != 7 {
				err = fmt.Errorf("it is %d in %s", r.Weight, r.Service)
			}
		}
		return err
	})
	reload("weight = 9\ntunnel_port = 1400")
	await(t, "the refusal", func() error {
		if out := b.Agent.Output(); !strings.Contains(out, "tunnel_port cannot change while the agent runs; nothing was reloaded") {
			return fmt.Errorf("log:\n%s", out)
		}
		return nil
	})
	rows, err := c.Control().Backends(t.Context())
	must(t, err)
	for _, r := range rows {
		if r.Name == b.Name && r.Weight != 7 {
			t.Errorf("a refused reload made the weight %d", r.Weight)
		}
	}
	for _, l := range lines {
		must(t, l.ping(5*time.Second))
	}
	if n := strings.Count(b.Agent.Output(), "msg=registered"); n != 1 {
		t.Errorf("the agent registered %d times", n)
	}
}
