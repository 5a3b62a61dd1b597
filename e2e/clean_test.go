package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/core/ruleset"
	"github.com/caplance/caplance/e2e/cluster"
	"github.com/caplance/caplance/e2e/topology"
	"github.com/vishvananda/netlink"
)

// footprint lists all that Caplance changes on a host: rules, links, addresses,
// sysctls, sockets; mounts in its state directory, for all hosts share the mounts.
func footprint(t testing.TB, c *cluster.Cluster, h *topology.Host) string {
	t.Helper()
	var b strings.Builder
	must(t, h.Do(func() error {
		tables, err := ruleset.Tables()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "tables %v\n", tables)
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
			if err != nil {
				return err
			}
			var list []string
			for _, a := range addrs {
				list = append(list, a.IPNet.String())
			}
			sort.Strings(list)
			fmt.Fprintf(&b, "link %s %v\n", l.Attrs().Name, list)
		}
		for _, pattern := range []string{"ipv4/conf/*/arp_*", "ipv4/conf/*/rp_filter", "ipv4/conf/*/accept_local", "ipv6/conf/*/disable_ipv6", "ipv4/ip_forward"} {
			files, err := filepath.Glob("/proc/sys/net/" + pattern)
			if err != nil {
				return err
			}
			for _, f := range files {
				v, err := os.ReadFile(f)
				if err != nil {
					return err
				}
				fmt.Fprintf(&b, "%s=%s", strings.TrimPrefix(f, "/proc/sys/net/"), v)
			}
		}
		for _, f := range []string{"netfilter/nfnetlink_queue", "raw", "raw6", "udp", "udp6", "packet"} {
			data, err := os.ReadFile("/proc/thread-self/net/" + f)
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // of a module that nobody has needed yet
				return err
			}
			fmt.Fprintf(&b, "%s: %d sockets\n", f, strings.Count(string(data), "\n"))
		}
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%d mounts\n", strings.Count(string(mounts), filepath.Join(c.Dir, h.Name)+"/"))
		return nil
	}))
	return b.String()
}

// sockets returns the unix sockets in the cluster's directory.
func sockets(t testing.TB, c *cluster.Cluster) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(c.Dir, "*.sock"))
	must(t, err)
	return files
}

// Stopping the balancer and the agents leaves the machines as they were, and
// takes no longer than it may.
func TestStopLeavesNothing(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 1})
	b := c.Backends[0]
	lb, backend := footprint(t, c, c.LB), footprint(t, c, b.Host)
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	_, err := httpGet(t, c, cluster.VIP4)
	must(t, err)
	if footprint(t, c, c.LB) == lb || footprint(t, c, b.Host) == backend {
		t.Fatal("the footprint does not see what a running installation changes")
	}
	must(t, b.StopAgent())
	began := time.Now()
	must(t, c.StopServer())
	if took := time.Since(began); took > slow.Time(2*time.Second) {
		t.Errorf("the balancer took %s to stop", took)
	}
	same(t, "balancer", lb, footprint(t, c, c.LB))
	same(t, "backend", backend, footprint(t, c, b.Host))
	if left := sockets(t, c); len(left) > 0 {
		t.Errorf("sockets left: %v", left)
	}
}

// After kill -9 a start and a stop leave the machines as they were before.
func TestKillIsReclaimed(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 1})
	b := c.Backends[0]
	lb, backend := footprint(t, c, c.LB), footprint(t, c, b.Host)
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	c.Server.Kill()
	b.Agent.Kill()
	if footprint(t, c, c.LB) == lb || footprint(t, c, b.Host) == backend {
		t.Fatal("the kill left nothing to reclaim: the test proves nothing")
	}
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	must(t, b.StopAgent())
	must(t, c.StopServer())
	same(t, "balancer", lb, footprint(t, c, c.LB))
	same(t, "backend", backend, footprint(t, c, b.Host))
}

// unload runs caplance unload on the balancer's host.
func unload(t *testing.T, c *cluster.Cluster) error {
	t.Helper()
	return unloadOn(t, c, c.LB, "-c", c.ServerFile())
}

func unloadOn(t *testing.T, c *cluster.Cluster, h *topology.Host, args ...string) error {
	t.Helper()
	p, err := h.Start(filepath.Join(c.Bin, "caplance"), append([]string{"unload"}, args...)...)
	must(t, err)
	<-p.Done()
	if p.Err() != nil {
		return fmt.Errorf("%w: %s", p.Err(), p.Output())
	}
	return nil
}

// unload takes back what a killed balancer left, and refuses while one runs.
func TestUnload(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 1})
	before := footprint(t, c, c.LB)
	must(t, c.StartServer(t.Context()))
	if err := unload(t, c); err == nil || !strings.Contains(err.Error(), "another running instance") {
		t.Errorf("while the balancer runs: %v", err)
	}
	c.Server.Kill()
	for range 2 {
		must(t, unload(t, c))
		same(t, "balancer", before, footprint(t, c, c.LB))
	}
}

// So it does for an agent, also when its key is gone.
func TestUnloadAgent(t *testing.T) {
	c := start(t, cluster.Options{Backends: 1})
	b := c.Backends[0]
	file, err := b.WriteConfig()
	must(t, err)
	must(t, b.StopAgent())
	before := footprint(t, c, b.Host)
	must(t, b.StartAgent(t.Context()))
	must(t, c.AwaitActive(t.Context(), 1))
	must(t, openLines(t, c, cluster.VIP4, 1)[0].finish())
	if err := unloadOn(t, c, b.Host, "-agent", "-c", file); err == nil || !strings.Contains(err.Error(), "another running instance") {
		t.Errorf("while the agent runs: %v", err)
	}
	b.Agent.Kill()
	must(t, b.LoseKey())
	for range 2 {
		must(t, unloadOn(t, c, b.Host, "-agent", "-c", file))
		same(t, "backend", before, footprint(t, c, b.Host))
	}
	left, err := filepath.Glob(filepath.Join(c.Dir, b.Name, "agent*"))
	must(t, err)
	pins, err := filepath.Glob("/sys/fs/bpf/caplance-agent/*" + t.Name() + "*")
	must(t, err)
	if left = append(left, pins...); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// A handover leaves what forwards, and only that: a start and a stop, or unload,
// take it back. On the datapath type userspace it is refused, and the balancer goes on.
func TestHandoverIsReclaimed(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 1})
	before := footprint(t, c, c.LB)
	must(t, c.StartServer(t.Context()))
	if c.Type == "userspace" {
		out, code := ctl(t, "handover", "-server", c.ServerSocket())
		if code == 0 || !strings.Contains(out, "stop it instead") {
			t.Errorf("exit code %d: %s", code, out)
		}
		_, err := c.Control().Stats(t.Context())
		must(t, err)
		return
	}
	for _, reclaim := range []func(){
		func() {
			must(t, c.StartServer(t.Context()))
			must(t, c.StopServer())
		},
		func() { must(t, unload(t, c)) },
	} {
		handover(t, c)
		<-c.Server.Done()
		must(t, c.Server.Err())
		if footprint(t, c, c.LB) == before {
			t.Error("the handover left nothing")
		}
		reclaim()
		same(t, "balancer", before, footprint(t, c, c.LB))
		must(t, c.StartServer(t.Context()))
	}
	must(t, c.StopServer())
}

// A start that fails, early or late, leaves nothing behind and says why.
func TestFailedStartsLeaveNothing(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 1})
	before := footprint(t, c, c.LB)
	taken, err := c.LB.Listen("[::]:1338")
	must(t, err)
	for _, tt := range []struct{ name, config, want string }{
		{"unknown key", "nonsense = 1\n" + c.Services("hash"), ":1: nonsense: unknown key"},
		{"port 0", "[[service]]\nname = \"a\"\nvip = \"10.77.0.200\"\nports = [0]\n", "service[0].ports[0]"},
		{"missing policy", "registry.auth = \"none\"\nregistry.agents = [\"10.77.0.0/24\"]\n" + c.Services("/nowhere/x.wasm"), `service "web4"`},
		{"no key", c.Services("hash"), "caplance keygen /etc/caplance/balancer.key makes one"},
		{"registry port taken", fmt.Sprintf("state_dir = %q\ncontrol = %q\n[registry]\nauth = \"none\"\nagents = [\"10.77.0.0/24\"]\nlisten = \"[::]:1338\"\n%s", filepath.Join(c.Dir, "lb"), c.ServerSocket(), c.Services("hash")), "address already in use"},
		{"socket not to be made", fmt.Sprintf("state_dir = %q\ncontrol = \"/proc/nope/x.sock\"\n[registry]\nauth = \"none\"\nagents = [\"10.77.0.0/24\"]\nlisten = \"[::]:1339\"\n%s", filepath.Join(c.Dir, "lb"), c.Services("hash")), "control socket"},
		{"state not to be written", fmt.Sprintf("state_dir = \"/proc/nope\"\ncontrol = %q\nregistry.auth = \"none\"\nregistry.agents = [\"10.77.0.0/24\"]\n%s", c.ServerSocket(), c.Services("hash")), "/proc/nope"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			must(t, c.WriteServerConfig(tt.config))
			err := c.StartServer(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want one with %q", err, tt.want)
			}
			if code := c.Server.ProcessState.ExitCode(); code != 1 {
				t.Errorf("exit code %d, want 1", code)
			}
			if len(sockets(t, c)) > 0 {
				t.Error("a control socket is left")
			}
			after := footprint(t, c, c.LB)
			same(t, "balancer", before, after)
		})
	}
	taken.Close()
}

func same(t testing.TB, what, before, after string) {
	t.Helper()
	if before == after {
		return
	}
	was := strings.Split(before, "\n")
	for _, l := range strings.Split(after, "\n") {
		if !strings.Contains(before, l) {
			t.Errorf("%s: left behind or changed: %s", what, l)
		}
	}
	for _, l := range was {
		if !strings.Contains(after, l) {
			t.Errorf("%s: was before: %s", what, l)
		}
	}
}
