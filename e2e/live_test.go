package e2e

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
)

// held is a number of open connections, which nothing that the tests do to the
// balancer may cost anything.
type held struct {
	c     *cluster.Cluster
	lines []*line
}

// hold opens n connections and makes them established flows.
func hold(t testing.TB, c *cluster.Cluster, n int) *held {
	t.Helper()
	h := &held{c: c, lines: append(openLines(t, c, cluster.VIP4, n/2), openLines(t, c, cluster.VIP6, n-n/2)...)}
	h.check(t, "at rest")
	return h
}

// check has every connection answer.
func (h *held) check(t testing.TB, after string) {
	t.Helper()
	lost := 0
	for _, l := range h.lines {
		if err := l.ping(pingTimeout); err != nil {
			if lost++; lost <= 3 {
				t.Errorf("%s: flow at %s: %v", after, l.backend, err)
			}
		}
	}
	if lost > 0 {
		t.Fatalf("%s: %d of %d flows are lost", after, lost, len(h.lines))
	}
}

// newWorks reports when new connections to a VIP work again; it wants that
// within two seconds.
func newWorks(t testing.TB, c *cluster.Cluster, after string, vips ...netip.Addr) {
	t.Helper()
	begin := time.Now()
	for _, vip := range vips {
		for {
			l, err := tryLine(c, vip, 200*time.Millisecond)
			if err == nil {
				l.Close()
				break
			}
			if time.Since(begin) > slow.Promise(2*time.Second) {
				t.Fatalf("%s: a new connection to %v after %s: %v", after, vip, time.Since(begin).Round(time.Millisecond), err)
			}
		}
	}
	if took := time.Since(begin); took > slow.Time(500*time.Millisecond) {
		t.Logf("%s: new connections after %s", after, took.Round(time.Millisecond))
	}
}

// tryLine opens a connection of the line protocol within a time, which slow
// scales, or not.
func tryLine(c *cluster.Cluster, vip netip.Addr, within time.Duration) (*line, error) {
	ctx, cancel := context.WithTimeout(context.Background(), slow.Time(within))
	defer cancel()
	conn, err := c.Client.Dial(ctx, "tcp", netip.AddrPortFrom(vip, cluster.LinePort).String())
	if err != nil {
		return nil, err
	}
	l := &line{Conn: conn, r: bufio.NewReader(conn)}
	conn.SetDeadline(time.Now().Add(slow.Time(time.Second)))
	if l.backend, err = l.r.ReadString('\n'); err != nil {
		conn.Close()
		return nil, fmt.Errorf("backend's name: %w", err)
	}
	return l, nil
}

// identity returns what the configuration says of services.
func identity(rows []api.ServiceRow) (out []string) {
	for _, r := range rows {
		out = append(out, fmt.Sprintf("%s %v %s %s %s %s", r.Name, r.VIP, r.Protocol, r.Ports, r.Mode, r.Policy))
	}
	return out
}

// reloadWith changes the configuration by replacing text and has the balancer
// reload it. It returns what caplancectl printed.
func reloadWith(t testing.TB, c *cluster.Cluster, change func(toml string) string) (out string, code int) {
	t.Helper()
	old, err := os.ReadFile(c.ServerFile())
	must(t, err)
	toml := change(string(old))
	if toml == string(old) {
		t.Fatal("this proves nothing: the configuration does not change")
	}
	must(t, c.WriteServerConfig(toml))
	return ctl(t, "reload", "-server", c.ServerSocket())
}

// edit returns a change that replaces text everywhere.
func edit(from, to string) func(string) string {
	return func(toml string) string { return strings.ReplaceAll(toml, from, to) }
}

// after returns a change that adds a line after another.
func addAfter(line, more string) func(string) string {
	return func(toml string) string { return strings.Replace(toml, line+"\n", line+"\n"+more+"\n", 1) }
}

// Every key of the file that can change does so while 100 connections are open:
// none is lost or moved, new ones work, and caplancectl says what has changed.
func TestReloadEveryKey(t *testing.T) {
	c := start(t, cluster.Options{Backends: 3, Policy: "round-robin"})
	h := hold(t, c, 100)
	counted := map[string]uint64{}
	other := "userspace"
	if c.Type == other {
		other = "tc"
	}
	mine, theirs := fmt.Sprintf("type = %q", c.Type), fmt.Sprintf("type = %q", other)
	for _, tt := range []struct {
		key    string
		change func(string) string
	}{
		{"datapath.flows", addAfter("[datapath]", "flows = 200000")},
		{"datapath.flows", edit("flows = 200000", "flows = 60000")},
		{"datapath.max_backends", addAfter("[datapath]", "max_backends = 4096")},
		{"datapath.queues", addAfter("[datapath]", "queues = 4")},
		{"datapath.queues", edit("queues = 4", "queues = 1")},
		{"datapath.first_queue", addAfter("[datapath]", "first_queue = 2000")},
		{"datapath.queues", edit("queues = 1", "queues = 3")},
		{"datapath.queue_length", addAfter("[datapath]", "queue_length = 4096")},
		{"datapath.timeouts.tcp", addAfter("drain_timeout = \"30s\"", "[datapath.timeouts]\ntcp = \"20m\"")},
		{"datapath.vip_host_access", addAfter("[datapath]", "vip_host_access = \"always\"")},
		{"datapath.links", addAfter("[datapath]", "links = [\"eth0\"]")},
		{"registry.rejoin", edit(fmt.Sprintf("rejoin = %q", c.Timeout), fmt.Sprintf("rejoin = %q", slow.Time(3*time.Second)))},
		{"registry.lease", edit(fmt.Sprintf("\nlease = %q", slow.Time(900*time.Millisecond)), fmt.Sprintf("\nlease = %q", slow.Time(600*time.Millisecond)))},
		{"registry.grace", edit("\ngrace = ", "\ngrace = \"5s\" # ")},
		{"registry.drain_timeout", edit(`drain_timeout = "30s"`, `drain_timeout = "40s"`)},
		{"registry.agents", edit("agents = []", `agents = ["10.0.0.0/8", "fd00::/8"]`)},
		{"registry.listen", edit(`listen = "[::]:1338"`, `listen = "10.77.0.1:1338"`)},
		{"registry.listen", edit(`listen = "10.77.0.1:1338"`, `listen = "0.0.0.0:1339"`)},
		{"registry.listen", edit(`listen = "0.0.0.0:1339"`, `listen = "[::]:1338"`)},
		{"log.level", edit(`level = "debug"`, `level = "info"`)},
		{"log.format", addAfter("[log]", `format = "json"`)},
		{"log.level", edit(`level = "info"`, `level = "debug"`)},
		{"metrics", func(s string) string { return "metrics = \"127.0.0.1:9338\"\n" + s }},
		{"metrics", edit("127.0.0.1:9338", "127.0.0.1:9339")},
		{"metrics_pprof", func(s string) string { return "metrics_pprof = true\n" + s }},
		{"policy.pick_fuel", edit("[registry]", "[policy]\npick_fuel = 700000\n[registry]")},
		{`service "web4".policy`, edit("round-robin", "hash")},
		{`service "web4".seed`, edit("policy = \"hash\"", "policy = \"hash\"\nseed = 4711")},
		{`service "web6".slow_start`, edit("seed = 4711", "seed = 4711\nslow_start = \"1s\"")},
		{`service "web4".max_upcalls`, edit("seed = 4711", "seed = 4711\nmax_upcalls = 1000")},
		{`service "web4".removed_flows`, edit("seed = 4711", "seed = 4711\nremoved_flows = \"reset\"")},
		{`service "web4".timeouts.tcp`, edit(`protocol = "tcp"`, "protocol = \"tcp\"\ntimeouts.tcp = \"20m\"")},
		{`service "echo4".udp`, edit("protocol = \"udp\"", "protocol = \"udp\"\nudp = \"datagram\"")},
		{`service "web4".icmp_echo`, edit("seed = 4711", "seed = 4711\nicmp_echo = \"backends\"")},
		{`service "web4".on_expire`, edit(`protocol = "tcp"`, "protocol = \"tcp\"\non_expire = \"reset\"")},
		{`service "web4".no_backend`, edit("seed = 4711", "seed = 4711\nno_backend = \"drop\"")},
		{`service "web4".max_new_flows`, edit("seed = 4711", "seed = 4711\nmax_new_flows = 100000")},
		{`service "web4".source_prefix_ipv4`, edit("seed = 4711", "seed = 4711\nsource_prefix_ipv4 = 24")},
		{`service "web4".allow`, edit("seed = 4711", "seed = 4711\nallow = [\"10.77.0.0/24\", \"fd77::/64\"]")},
		{`service "web4".deny`, edit("seed = 4711", "seed = 4711\ndeny = [\"10.77.0.7\"]")},
		{`service "web4".shadow`, edit("seed = 4711", "seed = 4711\nshadow = \"random\"")},
		{`service "web4".ports`, edit("ports = [80, 7]", "ports = [80, 7, 8080]")},
		{`service "web4".policy`, edit("policy = \"hash\"", "policy = \"maglev\"")},
		{"datapath.type", edit(mine, theirs)},
		{"datapath.type", edit(theirs, mine)},
	} {
		out, code := reloadWith(t, c, tt.change)
		if code != 0 || !strings.Contains(out, tt.key) {
			t.Fatalf("%s: exit code %d: %s", tt.key, code, out)
		}
		h.check(t, out)
		newWorks(t, c, out, vips...)
		grow(t, c, counted, out)
	}
	if out, code := ctl(t, "status", "-server", c.ServerSocket()); code != 0 || !strings.Contains(out, "all is well") {
		t.Errorf("exit code %d: %s", code, out)
	}
	for _, l := range h.lines {
		must(t, l.finish())
	}
}

// grow checks that no total has become less than it was.
func grow(t *testing.T, c *cluster.Cluster, counted map[string]uint64, after string) {
	t.Helper()
	rows, err := c.Control().Backends(t.Context())
	must(t, err)
	now := map[string]uint64{}
	for _, r := range rows {
		now[r.Service+"/"+r.Name+" packets"] = r.Packets
		now[r.Service+"/"+r.Name+" flows"] = r.FlowsTotal
	}
	stats, err := c.Control().Stats(t.Context())
	must(t, err)
	maps.Copy(now, stats.Counters)
	services, err := c.Control().Services(t.Context())
	must(t, err)
	for _, r := range services {
		now[r.Name+" denied"], now[r.Name+" limited"], now[r.Name+" failures"], now[r.Name+" picks timed"] = r.Denied, r.Limited, r.Failures, r.PickTime.Count
		for by, n := range r.Picks {
			now[r.Name+" picks by "+by] = n
		}
	}
	for what, n := range counted {
		if now[what] < n {
			t.Errorf("%s: %s fell from %d to %d", after, what, n, now[what])
		}
	}
	for what, n := range now {
		counted[what] = n
	}
}

// Queues that are not wanted any more end, with nothing forgotten.
func TestQueuesEnd(t *testing.T) {
	c := inTheKernel(t, cluster.Options{Backends: 2})
	counted := map[string]uint64{}
	l := openLines(t, c, cluster.VIP4, 1)[0]
	must(t, l.ping(pingTimeout))
	grow(t, c, counted, "before")
	if out, code := reloadWith(t, c, addAfter("[datapath]", "first_queue = 2000")); code != 0 {
		t.Fatalf("exit code %d: %s", code, out)
	}
	await(t, "the old queues' end", func() error {
		s, err := c.Control().Stats(t.Context())
		if err != nil {
			return err
		}
		for _, q := range s.Queues {
			if q.Queue < 2000 {
				return fmt.Errorf("queue %d is open", q.Queue)
			}
		}
		return nil
	})
	must(t, l.ping(pingTimeout))
	grow(t, c, counted, "after")
	out, code := ctl(t, "explain", l.LocalAddr().String(), l.RemoteAddr().String()+"/tcp", "-server", c.ServerSocket())
	if code != 0 || !strings.Contains(out, l.backend) {
		t.Errorf("explain: exit code %d: %s", code, out)
	}
	if out, code := ctl(t, "explain", "10.77.0.100:4711", l.RemoteAddr().String()+"/tcp", "-server", c.ServerSocket()); code != 0 {
		t.Errorf("explain an unknown flow: exit code %d: %s", code, out)
	}
}

// A policy that was swapped by order comes back by a reload, which says so.
func TestReloadAfterASwap(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2, Policy: "round-robin"})
	if out, code := ctl(t, "policy", "swap", "web4", "hash", "-server", c.ServerSocket()); code != 0 {
		t.Fatalf("exit code %d: %s", code, out)
	}
	for _, dry := range []bool{true, false} {
		args := []string{"reload", "-server", c.ServerSocket()}
		if dry {
			args = append(args, "-n")
		}
		out, code := ctl(t, args...)
		if code != 0 || !strings.Contains(out, `- service "web4".policy = "hash"`) || !strings.Contains(out, `+ service "web4".policy = "round-robin"`) {
			t.Errorf("exit code %d: %s", code, out)
		}
	}
	if out, _ := ctl(t, "reload", "-server", c.ServerSocket()); !strings.Contains(out, "holds already") {
		t.Errorf("once more: %s", out)
	}
}

// Services come, go, change their names, their order, their VIPs and protocols
// while connections are open.
func TestReloadServices(t *testing.T) {
	c := start(t, cluster.Options{Backends: 3, Policy: "round-robin"})
	h := hold(t, c, 100)
	another := netip.MustParseAddr("10.77.0.201")
	service := func(name string, vip netip.Addr, port int) string {
		return fmt.Sprintf("[[service]]\nname = %q\nvip = %q\nprotocol = \"tcp\"\nports = [%d]\n", name, vip, port)
	}
	do := func(what string, change func(string) string) {
		t.Helper()
		if out, code := reloadWith(t, c, change); code != 0 {
			t.Fatalf("%s: exit code %d: %s", what, code, out)
		}
		h.check(t, what)
	}
	do("a service is added", func(s string) string { return s + service("new", another, cluster.LinePort) })
	newWorks(t, c, "added", another)
	do("the order is reversed", func(s string) string {
		parts := strings.Split(s, "[[service]]")
		out := parts[0]
		for i := len(parts) - 1; i > 0; i-- {
			out += "[[service]]" + strings.TrimRight(parts[i], "\n") + "\n"
		}
		return out
	})
	newWorks(t, c, "reordered", append(vips, another)...)
	do("a service is renamed", edit(`name = "web4"`, `name = "www4"`))
	newWorks(t, c, "renamed", cluster.VIP4)
	onNew := openLines(t, c, another, 10)
	for _, l := range onNew {
		must(t, l.finish())
	}
	do("another VIP", edit(another.String(), "10.77.0.202"))
	newWorks(t, c, "another VIP", netip.MustParseAddr("10.77.0.202"))
	do("one that nobody uses is removed", func(s string) string {
		head, tail, _ := strings.Cut(s, "[[service]]\nname = \"new\"")
		_, tail, _ = strings.Cut(tail, "[[service]]")
		return head + "[[service]]" + tail
	})
}

// A removed service's flows go on until they end, and new ones are refused; or
// they are reset, as it says.
func TestRemovedService(t *testing.T) {
	for _, how := range []string{"drain", "reset"} {
		t.Run(how, func(t *testing.T) {
			c := start(t, cluster.Options{Backends: 2})
			must(t, c.WriteServerConfig(c.ServerConfig(fmt.Sprintf("removed_flows = %q", how))))
			if out, code := ctl(t, "reload", "-server", c.ServerSocket()); code != 0 {
				t.Fatalf("exit code %d: %s", code, out)
			}
			gone := openLines(t, c, cluster.VIP4, 20)
			stays := openLines(t, c, cluster.VIP6, 20)
			for _, l := range append(gone, stays...) {
				must(t, l.ping(pingTimeout))
			}
			cut := func(s string) string { // of web4, the first
				head, rest, _ := strings.Cut(s, "[[service]]")
				_, tail, _ := strings.Cut(rest, "[[service]]")
				return head + "[[service]]" + tail
			}
			if out, code := reloadWith(t, c, cut); code != 0 || !strings.Contains(out, `service "web4"`) {
				t.Fatalf("exit code %d: %s", code, out)
			}
			if l, err := tryLine(c, cluster.VIP4, time.Second); err == nil {
				l.Close()
				t.Error("a removed service takes new connections")
			}
			for _, l := range stays {
				must(t, l.ping(pingTimeout))
			}
			for _, l := range gone {
				err := l.ping(pingTimeout)
				if how == "drain" && err != nil || how == "reset" && err == nil {
					t.Fatalf("%s: %v", how, err)
				}
			}
			for _, l := range gone {
				l.Close()
			}
			await(t, "the end of the service", func() error {
				rows, err := c.Control().Services(t.Context())
				for _, r := range rows {
					if r.Name == "web4" {
						err = fmt.Errorf("it is there, with %d flows", r.Flows)
					}
				}
				return err
			})
			for _, l := range stays {
				must(t, l.ping(pingTimeout))
			}
		})
	}
}

// A file that is refused changes nothing, and says why; a dry run changes
// nothing either.
func TestReloadRefused(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2})
	h := hold(t, c, 20)
	before, err := c.Control().Services(t.Context())
	must(t, err)
	good, err := os.ReadFile(c.ServerFile())
	must(t, err)
	for _, tt := range []struct {
		name, want string
		change     func(string) string
	}{
		{"unknown key", "unknown key", func(s string) string { return "nonsense = 1\n" + s }},
		{"missing policy", `service "web4"`, edit("round-robin", "/nowhere/x.wasm")},
		{"state_dir", "state_dir", edit("state_dir = \"", "state_dir = \"/tmp/other")},
		{"control", "control", edit("control = \"", "control = \"/tmp/other")},
		{"metrics address taken", "metrics", func(s string) string { return "metrics = \"127.0.0.1:1338\"\n" + s }},
		{"own address", "10.77.0.1", edit(cluster.VIP4.String(), "10.77.0.1")},
		{"overlap", "belongs to service", edit(`name = "echo4"`+"\nvip = \"10.77.0.200\"\nprotocol = \"udp\"\nports = [53]", `name = "echo4"`+"\nvip = \"10.77.0.200\"\nprotocol = \"tcp\"\nports = [80]")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			must(t, c.WriteServerConfig(string(good)))
			must(t, c.WriteServerConfig(tt.change(string(good))))
			if out, code := ctl(t, "reload", "-n", "-server", c.ServerSocket()); code != 1 || !strings.Contains(out, tt.want) {
				t.Errorf("dry run: exit code %d: %s, want one with %q", code, out, tt.want)
			}
			must(t, c.WriteServerConfig(string(good)))
			out, code := reloadWith(t, c, tt.change)
			if code != 1 || !strings.Contains(out, tt.want) {
				t.Errorf("exit code %d: %s, want one with %q", code, out, tt.want)
			}
			h.check(t, tt.name)
			now, err := c.Control().Services(t.Context())
			if err != nil || fmt.Sprint(identity(now)) != fmt.Sprint(identity(before)) {
				t.Errorf("services are %v, were %v: %v", identity(now), identity(before), err)
			}
		})
	}
	must(t, c.WriteServerConfig(strings.ReplaceAll(string(good), "round-robin", "hash")))
	if out, code := ctl(t, "reload", "-n", "-server", c.ServerSocket()); code != 0 || !strings.Contains(out, "hash") {
		t.Errorf("dry run: exit code %d: %s", code, out)
	}
	rows, err := c.Control().Services(t.Context())
	if err != nil || rows[0].Policy != "round-robin" {
		t.Errorf("a dry run changed the policy to %s: %v", rows[0].Policy, err)
	}
}
