package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
)

// state asks the balancer for a backend's state; "gone" when no service lists
// it.
func state(t testing.TB, c *cluster.Cluster, backend string) string {
	t.Helper()
	rows, err := c.Control().Backends(t.Context())
	must(t, err)
	for _, r := range rows {
		if r.Name == backend {
			return r.State.String()
		}
	}
	return "gone"
}

func awaitState(t testing.TB, c *cluster.Cluster, backend, want string) {
	t.Helper()
	await(t, backend+" to be "+want, func() error {
		if got := state(t, c, backend); got != want {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
}

// dead checks that a flow's packets go nowhere.
func dead(l *line) error {
	if err := l.ping(500 * time.Millisecond); err == nil {
		return errors.New("still answered")
	}
	return nil
}

// A backend that falls silent is gone within the read timeout and a second,
// and its flows are re-scheduled; measured for a stopped agent and for a cut
// link.
func TestHeartbeatExpiry(t *testing.T) {
	lease := slow.Time(2 * time.Second)
	for _, tt := range []struct {
		name      string
		kill, fix func(*cluster.Backend) error
	}{
		{"agent stopped", func(b *cluster.Backend) error { b.Agent.Signal(syscall.SIGSTOP); return nil },
			func(b *cluster.Backend) error { b.Agent.Signal(syscall.SIGCONT); return nil }},
		{"link down", func(b *cluster.Backend) error { return b.SetUp("eth0", false) },
			func(b *cluster.Backend) error { return b.SetUp("eth0", true) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := start(t, cluster.Options{Backends: 3, Timeout: "2s"})
			victim := c.Backends[1]
			pc := udpSocket(t, c, cluster.VIP4)
			home := ""
			for home != victim.Name { // a UDP flow that lives on the victim
				pc = udpSocket(t, c, cluster.VIP4)
				var err error
				home, _, err = udpAskFrom(pc, cluster.VIP4, []byte("x"))
				must(t, err)
			}
			cut := time.Now()
			must(t, tt.kill(victim))
			awaitState(t, c, victim.Name, "gone")
			took := time.Since(cut)
			t.Logf("gone after %s; the lease is %s", took.Round(time.Millisecond), lease)
			if took > lease+slow.Time(time.Second) {
				t.Errorf("gone only after %s", took)
			}
			now, _, err := udpAskFrom(pc, cluster.VIP4, []byte("x"))
			must(t, err)
			if now == victim.Name {
				t.Error("the flow was not re-scheduled")
			}
			for range 12 {
				if name, err := httpGet(t, c, cluster.VIP4); err != nil || name == victim.Name {
					t.Errorf("new flow: %s, %v", name, err)
				}
			}
			must(t, tt.fix(victim))
			must(t, c.AwaitActive(t.Context(), 3)) // the agent comes back by itself
		})
	}
}

// PAUSE, RESUME, DRAIN and DEREGISTER by caplancectl, with flows running.
func TestSteeringByCaplancectl(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2})
	b1 := c.Backends[0]
	lines := openLines(t, c, cluster.VIP4, 20)
	at := func(name string) (out []*line) {
		for _, l := range lines {
			if l.backend == name {
				out = append(out, l)
			}
		}
		return out
	}
	agent := func(verb, want string) {
		t.Helper()
		out, code := ctl(t, verb, "-agent", b1.Socket())
		if code != 0 {
			t.Fatalf("%s: exit code %d: %s", verb, code, out)
		}
		awaitState(t, c, b1.Name, want)
	}
	allNewTo := func(name string) {
		t.Helper()
		for range 8 {
			l, err := openLine(t, c, cluster.VIP4)
			must(t, err)
			l.Close()
			if l.backend != name {
				t.Errorf("a new flow went to %s", l.backend)
			}
		}
	}
	alive := func(name string) {
		t.Helper()
		for _, l := range at(name) {
			if err := l.ping(10 * time.Second); err != nil {
				t.Errorf("flow at %s: %v", name, err)
			}
		}
	}

	agent("pause", "paused")
	allNewTo("b2")
	must(t, dead(at("b1")[0]))
	if out, _ := ctl(t, "getstate", "-agent", b1.Socket()); !strings.Contains(strings.ToLower(out), "paused") {
		t.Errorf("getstate: %s", out)
	}
	agent("resume", "active")
	for _, l := range at("b1")[1:] {
		if err := l.ping(15 * time.Second); err != nil {
			t.Errorf("flow did not survive the pause: %v", err)
		}
	}

	agent("drain", "draining")
	allNewTo("b2")
	lines = slices.DeleteFunc(lines, func(l *line) bool { return l == at("b1")[0] }) // it has an unread echo
	alive("b1")
	agent("resume", "active")

	agent("deregister", "gone")
	allNewTo("b2")
	alive("b2")
	if _, code := ctl(t, "backends", "-server", c.ServerSocket()); code != 0 {
		t.Errorf("backends: exit code %d", code)
	}
}

// Flows to the surviving backends stay put while others come and go: 0 moved
// of at least 200 open connections.
func TestFlowsStayPut(t *testing.T) {
	c := start(t, cluster.Options{Backends: 5})
	lines := slices.Concat(openLines(t, c, cluster.VIP4, 150), openLines(t, c, cluster.VIP6, 150))
	t.Logf("open: %v", byBackend(lines))
	survivors := slices.DeleteFunc(slices.Clone(lines), func(l *line) bool { return l.backend == "b4" || l.backend == "b5" })
	check := func(what string) {
		t.Helper()
		moved := 0
		for _, l := range survivors {
			if err := l.ping(10 * time.Second); err != nil {
				moved++
			}
		}
		if moved > 0 || len(survivors) < 150 {
			t.Errorf("%s: %d of %d connections moved", what, moved, len(survivors))
		}
	}
	check("at rest")
	must(t, c.Backends[3].StopAgent())
	c.Backends[4].Agent.Kill()
	check("two left")
	awaitState(t, c, "b5", "gone")
	check("one expired")
	must(t, c.Backends[3].StartAgent(t.Context()))
	must(t, c.Backends[4].StartAgent(t.Context()))
	must(t, c.AwaitActive(t.Context(), 5))
	check("both came back")
	more := openLines(t, c, cluster.VIP4, 200)
	survivors = append(survivors, more...)
	check("with more flows")
}

// An agent that is killed and started again takes its place over, and its
// flows go on.
func TestAgentRestart(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2, Timeout: "10s"})
	lines := openLines(t, c, cluster.VIP4, 10)
	c.Backends[0].Agent.Kill()
	awaitState(t, c, "b1", "lost")
	must(t, c.Backends[0].StartAgent(t.Context()))
	awaitState(t, c, "b1", "active")
	for _, l := range lines {
		if err := l.ping(10 * time.Second); err != nil {
			t.Errorf("flow at %s: %v", l.backend, err)
		}
	}
}

// A balancer that is killed and started again takes its rules over, the agents
// register again, and connections that hash scheduled go on.
func TestBalancerRestart(t *testing.T) {
	c := start(t, cluster.Options{Backends: 4, Policy: "hash", Timeout: "5s"})
	lines := slices.Concat(openLines(t, c, cluster.VIP4, 60), openLines(t, c, cluster.VIP6, 60))
	c.Server.Kill()
	must(t, c.StartServer(t.Context()))
	// Clients go on talking while the backends come back one after another.
	for _, l := range lines {
		if err := l.ping(20 * time.Second); err != nil {
			t.Errorf("flow at %s: %v", l.backend, err)
		}
	}
	must(t, c.AwaitActive(t.Context(), 4))
	await(t, "a sign that flows were taken over, or the test proves nothing", func() error {
		stats, err := c.Control().Stats(t.Context())
		if err == nil && stats.Counters["mid_flow"] == 0 && !strings.Contains(c.Server.Output(), "taken over") {
			err = errors.New("no flow was")
		}
		return err
	})
}

// A backend whose health check fails gets no new flows and keeps its old ones.
func TestUnhealthyBackend(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 2})
	c.Backends[0].Config = "[[check]]\nservice = \"*\"\ntype = \"tcp\"\naddress = \"127.0.0.1:4000\"\ninterval = \"200ms\""
	l, err := c.Backends[0].Listen("127.0.0.1:4000")
	must(t, err)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	lines := openLines(t, c, cluster.VIP4, 10)
	l.Close()
	awaitState(t, c, "b1", core.Unhealthy.String())
	for range 6 {
		if name, err := httpGet(t, c, cluster.VIP4); err != nil || name != "b2" {
			t.Errorf("new flow: %s, %v", name, err)
		}
	}
	for _, l := range lines {
		must(t, l.ping(5*time.Second))
	}
}

// A backend joins only the services that its agent names.
func TestServiceMembership(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 2})
	c.Backends[0].Config = `services = ["echo4"]`
	must(t, c.StartServer(t.Context()))
	must(t, c.Backends[0].StartAgent(t.Context()))
	must(t, c.Backends[1].StartAgent(t.Context()))
	members := map[string][]string{}
	await(t, "both to register", func() error {
		rows, err := c.Control().Backends(t.Context())
		clear(members)
		for _, r := range rows {
			members[r.Service] = append(members[r.Service], r.Name)
		}
		if err == nil && len(rows) != 5 {
			err = fmt.Errorf("%v", members)
		}
		return err
	})
	if !slices.Equal(members["echo4"], []string{"b1", "b2"}) || len(members["web4"]) != 1 {
		t.Errorf("members: %v", members)
	}
	for range 6 {
		if name, err := httpGet(t, c, cluster.VIP4); err != nil || name != "b2" {
			t.Errorf("web4: %s, %v", name, err)
		}
	}
}
