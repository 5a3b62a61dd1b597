package agent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core/control"
	"github.com/caplance/caplance/core/nettest"
)

// left hands an agent over and returns once it has ended.
func left(t *testing.T, a *running, path string) {
	t.Helper()
	if _, err := control.HandoverAgent(t.Context(), path, "b1"); err != nil {
		t.Fatal(err)
	}
	<-a.stopped
	if err := a.stop(); err != nil {
		t.Error(err)
	}
	if a.m.closed != "left" {
		t.Errorf("the machine was %s", a.m.closed)
	}
}

// A handover ends the agent at once, whatever its stop is, without a word to the
// balancer: the backend keeps its lease. The next agent has it again.
func TestHandover(t *testing.T) {
	b := newBalancer(t, freePort(t))
	b.active = 5 // a drain would wait for them
	cfg := b.config()
	a := start(t, cfg)
	b.until("b1 active")
	report, _, err := a.handover(t.Context())
	if err != nil || report.State != "Active" || report.VIPs != 2 || report.Decap != "userspace" || !strings.Contains(report.Text, "TCP sends them again") {
		t.Errorf("report %+v, %v", report, err)
	}
	if _, err := control.HandoverAgent(t.Context(), cfg.Control, "b2"); err == nil || !strings.Contains(err.Error(), "is not this agent's") {
		t.Errorf("another backend's name: %v", err)
	}
	left(t, a, cfg.Control)
	if got := <-b.pools; got != "b1 lost" {
		t.Errorf("the pool became %q", got)
	}
	next := start(t, cfg)
	b.until("b1 active")
	b.mu.Lock()
	b.active = 0
	b.mu.Unlock()
	if err := next.stop(); err != nil || next.m.closed != "taken back" {
		t.Errorf("the next one's machine was %s, %v", next.m.closed, err)
	}
}

// What the operator has chosen is handed over, once.
func TestHandoverKeepsTheState(t *testing.T) {
	for op, want := range map[control.Op]State{control.Pause: Paused, control.Drain: Draining, control.Deregister: Unregistered} {
		t.Run(string(op), func(t *testing.T) {
			b := newBalancer(t, freePort(t))
			b.active = 1
			cfg := b.config()
			cfg.Drain = false
			a := start(t, cfg)
			b.until("b1 active")
			mustCall(t, cfg.Control, string(op), want.String())
			left(t, a, cfg.Control)
			next := start(t, cfg)
			next.eventually(want.String(), func() string { return next.State().String() })
			mustCall(t, cfg.Control, "Resume", map[bool]string{true: "Registering", false: "Active"}[want == Unregistered])
			next.eventually("Active", func() string { return next.State().String() })
			left(t, next, cfg.Control)
			last := start(t, cfg)
			last.eventually("Active", func() string { return last.State().String() })
		})
	}
}

// A stop that has begun goes its way.
func TestHandoverOfAStoppingAgent(t *testing.T) {
	b := newBalancer(t, freePort(t))
	b.active = 1
	cfg := b.config()
	a := start(t, cfg)
	b.until("b1 active")
	ended := make(chan error, 1)
	go func() { ended <- a.stop() }()
	b.until("b1 draining")
	if _, err := control.HandoverAgent(t.Context(), cfg.Control, ""); err == nil || !strings.Contains(err.Error(), "agent is stopping") {
		t.Errorf("error %v", err)
	}
	b.mu.Lock()
	b.active = 0
	b.mu.Unlock()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// On a real machine VIPs, sysctls, rules and the program stay until the next one is
// there, and its stop takes them back.
func TestHandoverLeavesTheMachine(t *testing.T) {
	if !nettest.OwnNetNS(t) {
		return
	}
	before := machineState(t)
	b := newBalancer(t, 1337)
	cfg := b.config()
	a, stop := startReal(t, b, cfg)
	during := machineState(t)
	report, err := control.HandoverAgent(t.Context(), cfg.Control, "")
	if err != nil {
		t.Fatal(err)
	}
	<-a.stopped
	if err := stop(); err != nil {
		t.Error(err)
	}
	if a.machine.kernel && (report.Decap != "kernel" || report.Text != "") {
		t.Errorf("report %+v", report)
	}
	between := machineState(t)
	for _, line := range strings.Split(during, "\n") {
		if !strings.Contains(line, Device) && !strings.Contains(between, line) {
			t.Errorf("%s is gone", line)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- New(cfg, slog.New(slog.DiscardHandler)).Run(ctx) }()
	b.until("b1 active")
	within(t, "the machine as it was", 5*time.Second, func() error {
		if s := machineState(t); s != during {
			return errors.New(s)
		}
		return nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if after := machineState(t); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
	if list, err := os.ReadDir(cfg.StateDir); err != nil || len(list) != 0 {
		t.Errorf("in the state directory: %v, %v", list, err)
	}
}
