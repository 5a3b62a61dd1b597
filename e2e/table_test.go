package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
)

// A policy in table mode places flows by its table, which follows the pool,
// moves few slots without need, and can be swapped out and in again.
func TestTableMode(t *testing.T) {
	c := start(t, cluster.Options{Backends: 5, Policy: "maglev"})
	await(t, "the first table", func() error {
		if row := policyRow(t, c, "web4"); row.Table == nil || row.Table.Built.IsZero() {
			return fmt.Errorf("table: %+v", row.Table)
		}
		return nil
	})
	lines := openLines(t, c, cluster.VIP4, 100)
	row := policyRow(t, c, "web4")
	if row.Picks["table"] < 95 || row.Picks["policy"] != 0 { // the first ones may have come before the table
		t.Errorf("picks %v", row.Picks)
	}
	built := row.Table.Built
	must(t, c.Backends[4].StopAgent())
	await(t, "a table for four", func() error {
		if row := policyRow(t, c, "web4"); !row.Table.Built.After(built) || row.Table.Error != "" {
			return fmt.Errorf("table: %+v", row.Table)
		}
		return nil
	})
	if d := policyRow(t, c, "web4").Table.Disruption; d <= 0 || d > 0.03 {
		t.Errorf("%.1f%% of the slots moved without need", 100*d)
	}
	for _, l := range lines {
		if l.backend != "b5" {
			must(t, l.ping(5*time.Second))
		}
	}
	must(t, c.Control().Swap(t.Context(), "web4", "round-robin"))
	await(t, "picks by the policy", func() error {
		l, err := openLine(t, c, cluster.VIP4)
		if err != nil {
			return err
		}
		l.Close()
		if row := policyRow(t, c, "web4"); row.Picks["policy"] == 0 {
			return fmt.Errorf("picks %v", row.Picks)
		}
		return nil
	})
	must(t, c.Control().Rollback(t.Context(), "web4"))
	before := policyRow(t, c, "web4").Picks["table"]
	await(t, "picks by the table again", func() error {
		l, err := openLine(t, c, cluster.VIP4)
		if err != nil {
			return err
		}
		l.Close()
		if row := policyRow(t, c, "web4"); row.Picks["table"] == before {
			return fmt.Errorf("picks %v", row.Picks)
		}
		return nil
	})
}

// Flows go to the backends of the lowest priority number that is alive.
func TestFailoverByPriority(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 3, Policy: "sticky-failover"})
	c.Backends[1].Config, c.Backends[2].Config = "priority = 1", "priority = 2"
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	for i, want := range []string{"b1", "b2", "b3"} {
		for range 6 {
			if name, err := httpGet(t, c, cluster.VIP4); err != nil || name != want {
				t.Errorf("%d backends stopped: %s answered, want %s: %v", i, name, want, err)
			}
		}
		must(t, c.Backends[i].StopAgent())
	}
}

// A new backend comes to its share slowly.
func TestSlowStart(t *testing.T) {
	ramp := slow.Time(3 * time.Second)
	c := prepare(t, cluster.Options{Backends: 2, Policy: "weighted-round-robin"})
	must(t, c.WriteServerConfig(c.ServerConfig(fmt.Sprintf("slow_start = %q", ramp))))
	must(t, c.StartServer(t.Context()))
	must(t, c.Backends[0].StartAgent(t.Context()))
	must(t, c.AwaitActive(t.Context(), 1))
	await(t, "b1 to be past its slow start", func() error {
		rows, err := c.Control().Backends(t.Context())
		if err == nil && time.Since(rows[0].Since) < ramp+slow.Time(time.Second) {
			err = fmt.Errorf("it is young")
		}
		return err
	})
	must(t, c.Backends[1].StartAgent(t.Context()))
	must(t, c.AwaitActive(t.Context(), 2))
	if got := counts(t, c, cluster.VIP4, 40); got["b2"] == 0 || got["b2"] > 14 {
		t.Errorf("a newcomer in its slow start got %d of 40 flows", got["b2"])
	}
}
