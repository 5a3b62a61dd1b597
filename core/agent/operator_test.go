package agent

import (
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caplance/caplance/core/control"
	"github.com/caplance/caplance/core/privilege"
)

// The weight changes in the session that there is, until the file is read again.
func TestWeightOfAnAgent(t *testing.T) {
	b := newBalancer(t, freePort(t))
	cfg := b.config()
	a := start(t, cfg)
	b.until("b1 active")
	weight := func() uint32 { return b.registry.Backends()[0].Weight }
	since := b.registry.Backends()[0].Since
	if state, err := control.AgentWeight(t.Context(), cfg.Control, "b1", 7); err != nil || state != "Active" || weight() != 7 {
		t.Errorf("%s, %v, weight %d", state, err, weight())
	}
	for name, w := range map[string]uint32{"b2": 8, "b1": 65536} {
		if _, err := control.AgentWeight(t.Context(), cfg.Control, name, w); err == nil || weight() != 7 {
			t.Errorf("%s, %d: %v, weight %d", name, w, err, weight())
		}
	}
	if err := a.Reload(cfg); err != nil || weight() != 1 {
		t.Errorf("reloaded: %v, weight %d", err, weight())
	}
	if !b.registry.Backends()[0].Since.Equal(since) {
		t.Error("it has registered anew")
	}
}

// What the balancer's operator orders is in the status while it holds.
func TestOperatorsOrders(t *testing.T) {
	b := newBalancer(t, freePort(t))
	cfg := b.config()
	a := start(t, cfg)
	b.until("b1 active")
	order := func(o string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.orders = o
	}
	told := func() string {
		s, err := control.AgentStatus(t.Context(), cfg.Control)
		if err != nil || s.Admin != "" && !strings.HasSuffix(s.Summary, "the balancer's operator orders "+s.Admin) {
			return errors.Join(err, errors.New(s.Summary)).Error()
		}
		return s.Admin
	}
	order("drain@web,weight:5")
	a.eventually("drain@web,weight:5", told)
	order("")
	a.eventually("", told)
}

// An agent gives up what it does not need once, when it is ready, and names its own
// files.
func TestAgentGivesUp(t *testing.T) {
	b := newBalancer(t, freePort(t))
	cfg := b.config()
	cfg.Sandbox.Capabilities, cfg.Sandbox.Paths = "least", []string{"/srv"}
	a := New(cfg, slog.New(slog.DiscardHandler))
	var plans atomic.Int32
	a.DropPrivileges(func(_ *slog.Logger, p privilege.Plan) {
		plans.Add(1)
		if p.All || p.Own[0] != cfg.StateDir || p.Socket != cfg.Control || p.Paths[0] != "/srv" {
			t.Errorf("%+v", p)
		}
	})
	a.giveUp()
	if plans.Load() != 1 {
		t.Errorf("%d plans", plans.Load())
	}
}
