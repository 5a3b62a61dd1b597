package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
)

// startPatient starts a cluster whose drains wait for their flows.
func startPatient(t *testing.T, o cluster.Options) *cluster.Cluster {
	t.Helper()
	c := prepare(t, o)
	must(t, c.WriteServerConfig(strings.Replace(c.ServerConfig(""), `drain_timeout = "30s"`, `drain_timeout = "1h"`, 1)))
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	return c
}

// order gives an order at the balancer.
func order(t testing.TB, c *cluster.Cluster, line string, more ...string) (out string) {
	t.Helper()
	out, code := ctl(t, slices.Concat(strings.Fields(line), more, []string{"-server", c.ServerSocket()})...)
	if code != 0 {
		t.Fatalf("%s: exit code %d: %s", line, code, out)
	}
	return out
}

// stateIn returns a backend's state in one service; "gone" when it is not listed.
func stateIn(t testing.TB, c *cluster.Cluster, service, backend string) string {
	t.Helper()
	rows, err := c.Control().BackendsOf(t.Context(), api.BackendFilter{Service: service})
	must(t, err)
	for _, r := range rows {
		if r.Name == backend {
			return r.State.String()
		}
	}
	return "gone"
}

// shares opens connections and returns how many each backend got.
func shares(t testing.TB, c *cluster.Cluster, vip netip.Addr, n int) map[string]int {
	t.Helper()
	lines := openLines(t, c, vip, n)
	for _, l := range lines {
		l.Close()
	}
	return byBackend(lines)
}

// ofBackend returns the lines at one backend, of which there must be some.
func ofBackend(t testing.TB, lines []*line, name string) (out []*line) {
	t.Helper()
	for _, l := range lines {
		if l.backend == name {
			out = append(out, l)
		}
	}
	if len(out) == 0 {
		t.Fatalf("this proves nothing: no flow is at %s", name)
	}
	return out
}

// A drain at the balancer loses no connection and gets no new one, and that stays
// so when the agent or the balancer starts again.
func TestOperatorsDrain(t *testing.T) {
	c := startPatient(t, cluster.Options{Backends: 2, Policy: "hash", Timeout: "10s"})
	h := hold(t, c, 40)
	ofBackend(t, h.lines, "b1")
	out := order(t, c, "drain b1", "-reason", "new kernel")
	if !strings.Contains(out, "b1: drain in every service, by root (uid 0)") || !strings.Contains(out, ": new kernel") {
		t.Errorf("drain: %s", out)
	}
	drains := func(after string) {
		t.Helper()
		await(t, "the drain "+after, func() error {
			if got := state(t, c, "b1"); got != "draining" && got != "drained" {
				return errors.New(got)
			}
			return nil
		})
		for _, vip := range vips {
			if got := shares(t, c, vip, 16); got["b1"] > 0 || got["b2"] != 16 {
				t.Errorf("%s: new flows went to %v", after, got)
			}
		}
		h.check(t, after)
	}
	drains("at once")
	if out := order(t, c, "backends"); !strings.Contains(out, "new kernel") {
		t.Errorf("backends: %s", out)
	}
	await(t, "the agent to know", func() error {
		out, _ := ctl(t, "status", "-o", "json", "-agent", c.Backends[0].Socket())
		if !strings.Contains(out, `"admin": "drain"`) {
			return errors.New(out)
		}
		return nil
	})
	c.Backends[0].Agent.Kill()
	must(t, c.Backends[0].StartAgent(t.Context()))
	await(t, "the agent", func() error {
		if got, err := c.Backends[0].Call("GetState"); got != "Active" {
			return errors.Join(err, errors.New(got))
		}
		return nil
	})
	drains("after the agent's restart")
	if c.Type == "userspace" { // a killed balancer's flows of who was not eligible any more are lost there
		for _, l := range ofBackend(t, h.lines, "b1") {
			must(t, l.finish())
		}
		h.lines = ofBackend(t, h.lines, "b2")
		// Their last ACKs are on the way: a backend that misses one waits for it for two minutes.
		await(t, "the end of those connections", func() error {
			if got := state(t, c, "b1"); got != "drained" {
				return errors.New(got)
			}
			return nil
		})
	}
	c.Server.Kill()
	must(t, c.StartServer(t.Context()))
	drains("after the balancer's restart")
	if c.Type != "userspace" {
		handover(t, c)
		<-c.Server.Done()
		must(t, c.StartServer(t.Context()))
		drains("after a handover")
	}
	var report api.StatusReport
	out, _ = ctl(t, "status", "-o", "json", "-server", c.ServerSocket())
	must(t, json.Unmarshal([]byte(out), &struct{ Balancer *api.StatusReport }{&report}))
	if len(report.Admin) != 1 || report.Admin[0].Verb != "drain" || report.Admin[0].User != "root" || report.Admin[0].Reason != "new kernel" {
		t.Errorf("status: %+v", report.Admin)
	}
	for _, l := range h.lines {
		must(t, l.finish())
	}
	// Ends that the agent told a predecessor are asked for, some seconds later.
	for begin := time.Now(); state(t, c, "b1") != "drained"; <-time.After(20 * time.Millisecond) {
		if time.Since(begin) > slow.Time(time.Minute) {
			t.Fatalf("the drain goes on: b1 is %s", state(t, c, "b1"))
		}
	}
	order(t, c, "resume b1")
	must(t, c.AwaitActive(t.Context(), 2))
	if got := shares(t, c, cluster.VIP4, 64); got["b1"] == 0 {
		t.Errorf("after resume: %v", got)
	}
}

// What the agent and what the operator asked are taken back each by itself.
func TestTwoOperators(t *testing.T) {
	c := startPatient(t, cluster.Options{Backends: 2})
	h := hold(t, c, 12)
	agent := func(verb string) {
		t.Helper()
		if out, code := ctl(t, verb, "-agent", c.Backends[0].Socket()); code != 0 {
			t.Fatalf("%s: %s", verb, out)
		}
	}
	agent("drain")
	order(t, c, "drain b1")
	awaitState(t, c, "b1", "draining")
	agent("resume")
	awaitState(t, c, "b1", "draining")
	agent("drain")
	order(t, c, "resume b1")
	awaitState(t, c, "b1", "draining")
	h.check(t, "drained by both")
	order(t, c, "pause b1")
	awaitState(t, c, "b1", "paused")
	must(t, dead(ofBackend(t, h.lines, "b1")[0]))
	order(t, c, "resume b1")
	awaitState(t, c, "b1", "draining")
	agent("resume")
	awaitState(t, c, "b1", "active")
}

// Orders for a time take themselves back, and those for one service are about no
// other.
func TestOrdersForATimeAndOneService(t *testing.T) {
	c := startPatient(t, cluster.Options{Backends: 2})
	order(t, c, "drain b1 -service web4")
	if got := shares(t, c, cluster.VIP4, 8); got["b1"] > 0 {
		t.Errorf("web4: %v", got)
	}
	if got := shares(t, c, cluster.VIP6, 8); got["b1"] == 0 {
		t.Errorf("web6: %v", got)
	}
	await(t, "the end of the drain of web4, which has no flows", func() error {
		if got := stateIn(t, c, "web4", "b1"); got != "drained" {
			return errors.New(got)
		}
		return nil
	})
	if got := stateIn(t, c, "web6", "b1"); got != "active" {
		t.Errorf("b1 is %s in web6", got)
	}
	order(t, c, "resume b1")
	lasts := slow.Time(2 * time.Second)
	begin := time.Now()
	order(t, c, "pause b1 -for "+lasts.String())
	if got := stateIn(t, c, "web4", "b1"); got != "paused" && time.Since(begin) < lasts {
		t.Errorf("b1 is %s", got)
	}
	must(t, c.AwaitActive(t.Context(), 2))
	if took := time.Since(begin); took < lasts {
		t.Errorf("the pause for %s was over after %s", lasts, took)
	}
	out, code := ctl(t, "drain", "b11", "-server", c.ServerSocket())
	if code != 1 || !strings.Contains(out, `backend "b11" was never seen`) || !strings.Contains(out, "did you mean b1?") {
		t.Errorf("exit code %d: %s", code, out)
	}
}

// Weights shift the shares of new flows at once, the operator's before the agent's.
func TestWeightOrders(t *testing.T) {
	c := startPatient(t, cluster.Options{Backends: 2})
	shared := func(after string, least, most int) {
		t.Helper()
		if got := shares(t, c, cluster.VIP4, 60); got["b1"] < least || got["b1"] > most {
			t.Errorf("%s: %v, want b1 to get %d to %d", after, got, least, most)
		}
	}
	weighs := func(want uint32) {
		t.Helper()
		await(t, fmt.Sprint("weight ", want), func() error {
			rows, err := c.Control().BackendsOf(t.Context(), api.BackendFilter{Service: "web4", Backend: "b1"})
			if err == nil && rows[0].Weight != want {
				err = fmt.Errorf("it is %d", rows[0].Weight)
			}
			return err
		})
	}
	shared("at rest", 24, 36)
	if out, code := ctl(t, "weight", "4", "-agent", c.Backends[0].Socket()); code != 0 {
		t.Fatal(out)
	}
	weighs(4)
	shared("the agent's weight 4", 42, 54)
	order(t, c, "weight b1 0")
	shared("the operator's weight 0", 0, 0)
	if out, code := ctl(t, "weight", "9", "-agent", c.Backends[0].Socket()); code != 0 {
		t.Fatal(out)
	}
	shared("the agent's behind it", 0, 0)
	order(t, c, "weight b1 reset")
	weighs(9)
	shared("the agent's again", 48, 58)
}

// Who is disabled has no flow, old or new, whatever its agent does, until it is
// enabled; who is kicked comes back by itself.
func TestDisableAndKick(t *testing.T) {
	c := startPatient(t, cluster.Options{Backends: 2})
	ended := func(lines []*line) {
		t.Helper()
		for _, l := range lines {
			if err := l.ping(pingTimeout); err == nil {
				t.Errorf("a flow at %s goes on", l.backend)
			}
		}
	}
	h := hold(t, c, 12)
	order(t, c, "disable b1")
	awaitState(t, c, "b1", "disabled")
	ended(ofBackend(t, h.lines, "b1"))
	for _, l := range ofBackend(t, h.lines, "b2") {
		must(t, l.ping(pingTimeout))
	}
	out := func(after string) {
		t.Helper()
		awaitState(t, c, "b1", "disabled")
		if got := shares(t, c, cluster.VIP4, 8); got["b1"] > 0 {
			t.Errorf("%s: %v", after, got)
		}
	}
	out("disabled")
	c.Backends[0].Agent.Kill()
	awaitState(t, c, "b1", "absent")
	must(t, c.Backends[0].StartAgent(t.Context()))
	out("after the agent's restart")
	must(t, c.StopServer())
	must(t, c.StartServer(t.Context()))
	out("after the balancer's restart")
	order(t, c, "enable b1")
	must(t, c.AwaitActive(t.Context(), 2))

	since := func() (at time.Time) {
		rows, err := c.Control().BackendsOf(t.Context(), api.BackendFilter{Service: "web4", Backend: "b1"})
		must(t, err)
		if len(rows) > 0 {
			at = rows[0].Since
		}
		return at
	}
	before := since()
	order(t, c, "kick b1")
	must(t, c.AwaitActive(t.Context(), 2)) // again
	if !since().After(before) {
		t.Error("its membership goes on")
	}
	if got := shares(t, c, cluster.VIP4, 16); got["b1"] == 0 {
		t.Errorf("after the kick: %v", got)
	}
}
