package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/api"
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
			a := control.NewAgentServer(control.Options{Path: filepath.Join(env.WorkDir, "agent.sock")}, "b1", steerAgent)
			a.ShowStatus(agentStatus)
			a.OfferWeight(func(_ context.Context, n uint32) (string, error) { return fmt.Sprint("Active, ", n), nil })
			a.OfferHandover(func(context.Context) (api.AgentHandover, func(), error) {
				return api.AgentHandover{State: "Active", VIPs: 2, Decap: "userspace", Text: "packets are lost"}, func() {}, nil
			})
			s := control.NewServer(control.Options{Path: filepath.Join(env.WorkDir, "server.sock")}, source{}, source{}, source{})
			s.OfferSteering(source{})
			s.OfferAgents(source{})
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

func agentStatus() api.AgentStatus {
	return api.AgentStatus{State: "Active", Healthy: true, Summary: "all is well", Proven: "b1.example.org (01234567)", Warnings: []string{"certificate ends"}, Targets: []api.TargetRow{
		{Name: "addresses", Revision: 3, State: "ok", Since: time.Now().Add(-90 * time.Second), Drifts: 1},
	}}
}

func steerAgent(_ context.Context, op control.Op) (string, error) {
	switch op {
	case control.Drain:
		return "", errors.New("agent is not registered yet, no balancer could do it (its log says why)")
	case control.Pause:
		return "Paused", nil
	}
	return "Active", nil
}

type source struct{}

// drain is an order that was given a while ago.
func drain() api.AdminRow {
	until := time.Now().Add(time.Hour + 5*time.Minute + 30*time.Second)
	return api.AdminRow{Backend: "b2", Service: "web", Verb: "drain", User: "root", Since: time.Now().Add(-90 * time.Second), Until: &until, Reason: "new kernel"}
}

// Order returns an order as it was given.
func (source) Order(_ context.Context, o api.AdminOrder, by api.Caller) ([]api.AdminRow, error) {
	if o.Backend == "nothere" {
		return nil, errors.New(`backend "nothere" was never seen`)
	}
	if o.Verb == "resume" || o.Verb == "weight" && o.Weight == nil {
		return nil, nil
	}
	row := api.AdminRow{Backend: o.Backend, Service: o.Service, Verb: o.Verb, User: "me", UID: by.UID, Since: time.Now(), Reason: o.Reason}
	if o.Weight != nil {
		row.Weight = *o.Weight
	}
	if o.For > 0 {
		until := time.Now().Add(time.Duration(o.For*1e9) + 500*time.Millisecond)
		row.Until = &until
	}
	return []api.AdminRow{row}, nil
}

var pressed = 1.2

func (source) Backends(f api.BackendFilter) ([]api.BackendRow, error) {
	if f.Service == "nothere" {
		return nil, errors.New(`service "nothere" is unknown (services: web)`)
	}
	rows := []api.BackendRow{
		{Service: "web", Name: "b1", Addr: netip.MustParseAddr("10.0.0.11"), Mode: "direct", State: core.Active, Weight: 1, Flows: 12, FlowsTotal: 400,
			Share: 0.4, Load: &pressed, Packets: 1234567, Bytes: 5 << 30, Since: time.Now().Add(-26 * time.Hour)},
		{Service: "web", Name: "b2", Addr: netip.MustParseAddr("2001:db8::2"), State: core.Lost, Share: 0.6, Since: time.Now().Add(-90 * time.Second),
			Admin: []api.AdminRow{drain()}},
		{Name: "b9", State: core.Absent, Admin: []api.AdminRow{{Backend: "b9", Verb: "weight", Weight: 5, User: "4711", UID: 4711, Since: drain().Since}}},
	}
	return slices.DeleteFunc(rows, func(r api.BackendRow) bool { return f.Backend != "" && f.Backend != r.Name }), nil
}

func (source) Services() []api.ServiceRow {
	return []api.ServiceRow{{Name: "web", VIP: netip.MustParseAddr("192.0.2.1"), Protocol: "tcp", Ports: "80,443", Mode: "tunnel", Policy: "hash",
		Backends: 2, Eligible: 1, Picks: map[string]uint64{"policy": 7, "table": 3, "fallback": 1}, Failures: 1, Quarantined: true, LastError: "out of fuel"}}
}

func (source) Flows(_ context.Context, f api.FlowFilter) ([]api.FlowRow, error) {
	if f.Service == "busy" {
		return nil, errors.New("flows: a worker is too busy; try again")
	}
	return []api.FlowRow{{Src: netip.MustParseAddrPort("198.51.100.1:4711"), Dst: netip.MustParseAddrPort("192.0.2.1:80"), Proto: "tcp",
		Service: f.Service, Backend: f.Backend, State: "established", Kernel: f.Top, Rule: "policy", Age: 64, Idle: 0.25, Packets: uint64(f.Limit), Bytes: 1536}}, nil
}

func (source) Explain(_ context.Context, id api.FlowID) (api.Explanation, error) {
	e := api.Explanation{FlowID: id, Service: "web"}
	switch id.Src.Port() {
	case 1:
		e.Flow = &api.FlowRow{State: "established", Kernel: true, Rule: "policy", Age: 64, Idle: 0.25, Packets: 1234567, Bytes: 1536}
		e.Backend, e.Path = "b1", "tunnel to 10.0.0.11, packets up to 1472 bytes, by the kernel (tc)"
	case 2:
		e.Decision = "policy round-robin is asked"
	default:
		e.Service, e.Decision = "", "192.0.2.9 is no VIP: the packet is this machine's own"
	}
	return e, nil
}

func (source) Status() api.StatusReport {
	return api.StatusReport{
		Summary: "1 of 2 targets is behind", Revision: 12, Datapath: "tc (as configured)", Warnings: []string{"state directory: disk is full"},
		Certificates: []api.CertificateRow{
			{File: "/ca.pem", Subject: `"CN=ca"`, Fingerprint: "89abcdef", Authority: true, Until: time.Now().Add(50*time.Hour + time.Minute)},
			{File: "/lb.pem", Subject: "lb.example.org", Fingerprint: "01234567", Until: time.Now().Add(-90 * time.Second)},
		},
		Links: []api.LinkRow{{Name: "eth0", MTU: 1500, Up: true, Program: "tcx and xdp"}, {Name: "wg0", MTU: 1420, Note: "not there"}},
		Targets: []api.TargetRow{
			{Name: "ruleset", Revision: 12, State: "ok", Since: time.Now().Add(-90 * time.Second), Drifts: 2},
			{Name: "fastpath", Revision: 11, State: "retrying", Retries: 3, Error: "link eth7: not found"},
		},
	}
}

func (source) Reload(_ context.Context, dryRun bool) ([]api.ChangeRow, error) {
	rows := []api.ChangeRow{
		{Key: "datapath.flows", From: "2048", To: "4096"},
		{Key: `service "dns"`, From: "192.0.2.1 udp 53", Note: "its flows drain"},
		{Key: `service "ssh"`, To: "192.0.2.1 tcp 22"},
	}
	if !dryRun {
		return rows, errors.New("fast path: out of memory; nothing was reloaded")
	}
	return rows, nil
}

func (source) Handover(context.Context) (api.HandoverReport, func(), error) {
	return api.HandoverReport{Services: 1, Backends: 2, Flows: 3, Text: "start it within 30s"}, func() {}, nil
}

func (source) Events(limit int, after uint64) []api.EventRow {
	if after > 0 {
		return []api.EventRow{{Seq: after + 1, Time: time.Now(), Level: "INFO", Text: fmt.Sprint("event ", after+1)}}
	}
	return []api.EventRow{{Seq: 1, Time: time.Now(), Level: "WARN", Text: "peer refused", About: "peer=10.0.0.9:5"}, {Seq: 2, Time: time.Now(), Level: "INFO", Text: "backend registered", About: "backend=b1"}}[:min(limit, 2)]
}

func (source) Rows() []api.AgentRow {
	ends := time.Now().Add(50*time.Hour + time.Minute)
	return []api.AgentRow{
		{Name: "db", From: "configuration", Keys: []string{"AAAA=", "BBBB="}, MaxNames: 1, MaxWeight: 9, Sessions: []api.AgentSession{{Backend: "db", Peer: netip.MustParseAddrPort("10.0.0.9:5"), Proven: "BBBB="}}},
		{Name: "web-*", From: "configuration", SAN: []string{"*.example.org"}, MaxNames: 1, MaxWeight: 9, Sessions: []api.AgentSession{{Backend: "web-7", Peer: netip.MustParseAddrPort("10.0.0.7:5"), Proven: "7.example.org (01234567)", Expires: &ends}}},
	}
}

func (source) Create(api.TokenOrder) (api.TokenAnswer, error) {
	return api.TokenAnswer{}, errors.New("agents do not join here")
}

func (source) Remove(string) error { return nil }

func (source) Stats() api.Stats {
	return api.Stats{Version: "v0.1", Uptime: 3*3600 + 120, Capture: "xt NFQUEUE", Datapath: api.Datapath{Type: core.TC, Reason: "as configured"}, Flows: 3, Capacity: 1 << 20,
		Queues: []api.QueueRow{{Queue: 1337, Packets: 10, Batches: 2}}, Counters: map[string]uint64{"forwarded": 9}}
}

func TestHelpNamesEveryCommand(t *testing.T) {
	var out, errOut strings.Builder
	if code := run(t.Context(), []string{"-h"}, &out, &errOut); code != done || errOut.Len() > 0 {
		t.Errorf("exit code %d, %q", code, errOut.String())
	}
	for _, s := range sections {
		for _, c := range s.commands {
			if !strings.Contains(out.String(), "  "+c.name+" ") {
				t.Errorf("help lacks %s", c.name)
			}
		}
	}
}

func TestExitCodes(t *testing.T) {
	for line, want := range map[string]int{
		"": usage, "fly": usage, "stats -o xml": usage, "-x stats": usage, "help": done,
		"drain -service web": failed, "drain b1 -server /x": failed, "deregister -server /x": usage, "disable": usage, "drain b1 -for 0s": usage, "kick b1 -for 1s": usage, "backends -agent /x": usage, "stats -n": usage, "-top stats": usage,
		"explain 192.0.2.1:1": usage, "stats -timeout 0s": usage, "policy fly": usage, "reload now": usage,
		"reload -n -server /nonexistent": failed, "status -server /nonexistent": failed, "status -agent /nonexistent": failed,
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

func (source) Policies() []api.PolicyRow {
	return []api.PolicyRow{{
		Service: "web", Policy: "hash", Previous: "round-robin", Picks: map[string]uint64{"policy": 12},
		Metrics: map[string]uint64{"ends": 7}, Failures: 1, LastError: "pick answered 9",
		Shadow: &api.ShadowRow{Policy: "random", Asked: 10, Agreed: 4, Would: map[string]uint64{"b1": 6, "b2": 4}},
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

// What is printed has no escape sequences, wherever they come from.
func TestNoEscapeSequences(t *testing.T) {
	var out, errOut strings.Builder
	code := run(t.Context(), []string{"-agent", "/nowhere/\x1b[2J", "status"}, &out, &errOut)
	if text := out.String() + errOut.String(); code != failed || strings.Contains(text, "\x1b") || !strings.Contains(text, "[2J") {
		t.Errorf("exit code %d, %q", code, text)
	}
}
