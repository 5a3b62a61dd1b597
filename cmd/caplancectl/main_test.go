package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/control"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"caplancectl": main})
}

// TestScripts runs testdata/*.txtar. In each an agent answers at agent.sock and
// a balancer at server.sock.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			a := control.NewAgentServer(filepath.Join(env.WorkDir, "agent.sock"), "b1", steer)
			s := control.NewServer(filepath.Join(env.WorkDir, "server.sock"), source{}, source{})
			for _, task := range []struct {
				run   func(context.Context) error
				ready <-chan struct{}
			}{{a.Run, a.Ready()}, {s.Run, s.Ready()}} {
				ctx, cancel := context.WithCancel(context.Background())
				ended := make(chan error, 1)
				go func() { ended <- task.run(ctx) }()
				env.Defer(func() { cancel(); <-ended })
				select {
				case <-task.ready:
				case err := <-ended:
					return err
				}
			}
			return nil
		},
	})
}

func steer(_ context.Context, op control.Op) (string, error) {
	switch op {
	case control.Drain:
		return "", errors.New("agent is not registered yet, no balancer could do it (its log says why)")
	case control.Pause:
		return "Paused", nil
	}
	return "Active", nil
}

type source struct{}

func (source) Backends() []control.BackendRow {
	return []control.BackendRow{
		{Service: "web", Name: "b1", Addr: netip.MustParseAddr("10.0.0.11"), Mode: "direct", State: core.Active, Weight: 1, Flows: 12, FlowsTotal: 400,
			Share: 0.4, Packets: 1234567, Bytes: 5 << 30, Since: time.Now().Add(-26 * time.Hour)},
		{Service: "web", Name: "b2", Addr: netip.MustParseAddr("2001:db8::2"), State: core.Lost, Share: 0.6, Since: time.Now().Add(-90 * time.Second)},
	}
}

func (source) Services() []control.ServiceRow {
	return []control.ServiceRow{{Name: "web", VIP: netip.MustParseAddr("192.0.2.1"), Protocol: "tcp", Ports: "80,443", Mode: "tunnel", Policy: "hash",
		Backends: 2, Eligible: 1, Picks: map[string]uint64{"policy": 7, "table": 3, "fallback": 1}, Failures: 1, Quarantined: true, LastError: "out of fuel"}}
}

func (source) Flows(_ context.Context, f control.FlowFilter) ([]control.FlowRow, error) {
	if f.Service == "busy" {
		return nil, errors.New("flows: a worker is too busy; try again")
	}
	return []control.FlowRow{{Src: netip.MustParseAddrPort("198.51.100.1:4711"), Dst: netip.MustParseAddrPort("192.0.2.1:80"), Proto: "tcp",
		Service: f.Service, Backend: f.Backend, State: "established", Kernel: f.Top, Rule: "policy", Age: 64, Idle: 0.25, Packets: uint64(f.Limit), Bytes: 1536}}, nil
}

func (source) Explain(_ context.Context, id control.FlowID) (control.Explanation, error) {
	e := control.Explanation{FlowID: id, Service: "web"}
	switch id.Src.Port() {
	case 1:
		e.Flow = &control.FlowRow{State: "established", Kernel: true, Rule: "policy", Age: 64, Idle: 0.25, Packets: 1234567, Bytes: 1536}
		e.Backend, e.Way = "b1", "tunnel to 10.0.0.11, packets up to 1472 bytes, by the kernel: rung tc"
	case 2:
		e.Fresh = "policy round-robin is asked"
	default:
		e.Service = ""
	}
	return e, nil
}

func (source) Handover() (func(), error) {
	return nil, errors.New("handover: nothing forwards without the balancer on rung userspace; stop it instead")
}

func (source) Stats() control.Stats {
	return control.Stats{Version: "v0.1", Uptime: 3*3600 + 120, Capture: "xt NFQUEUE", Flows: 3, Capacity: 1 << 20,
		Queues: []control.QueueRow{{Queue: 1337, Packets: 10, Batches: 2}}, Counters: map[string]uint64{"forwarded": 9}}
}

func TestHelpNamesEveryCommand(t *testing.T) {
	var out, errOut strings.Builder
	if code := run(t.Context(), []string{"-h"}, &out, &errOut); code != done || errOut.Len() > 0 {
		t.Errorf("exit code %d, %q", code, errOut.String())
	}
	for _, c := range commands {
		if !strings.Contains(out.String(), "  "+c.name+" ") {
			t.Errorf("help lacks %s", c.name)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for line, want := range map[string]int{
		"": usage, "fly": usage, "stats -o xml": usage, "-x stats": usage, "help": done,
		"stats -server /nonexistent": failed, "pause -agent /nonexistent": failed,
	} {
		var out, errOut strings.Builder
		if code := run(t.Context(), strings.Fields(line), &out, &errOut); code != want {
			t.Errorf("caplancectl %s: exit code %d, want %d (%s)", line, code, want, errOut.String())
		}
	}
}

func TestHumanNumbers(t *testing.T) {
	for want, got := range map[string]string{
		"999999": count(999999), "1.0M": count(1e6), "18.4E": count(1<<64 - 1),
		"1023 B": size(1023), "1.0 KiB": size(1024), "5.0 GiB": size(5 << 30),
		"450ms": age(450 * time.Millisecond), "12s": age(12 * time.Second), "3m4s": age(184 * time.Second),
		"5h6m": age(5*time.Hour + 6*time.Minute), "7d8h": age(176 * time.Hour),
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func (source) Policies() []control.PolicyRow {
	return []control.PolicyRow{{
		Service: "web", Policy: "hash", Previous: "round-robin", Picks: map[string]uint64{"policy": 12},
		Metrics: map[string]uint64{"ends": 7}, Failures: 1, LastError: "pick answered 9",
		Shadow: &control.ShadowRow{Policy: "random", Asked: 10, Agreed: 4, Would: map[string]uint64{"b1": 6, "b2": 4}},
	}}
}

func (source) Swap(_ context.Context, service, policy string) error {
	if service != "web" {
		return fmt.Errorf("service %q is unknown (services: web)", service)
	}
	return nil
}
func (source) Rollback(context.Context, string) error       { return nil }
func (source) Shadow(context.Context, string, string) error { return nil }
