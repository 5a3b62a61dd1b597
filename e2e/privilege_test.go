package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/control"
	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/e2e/cluster"
	"github.com/caplance/caplance/e2e/topology"
)

// dropped are capabilities that no daemon needs, by their numbers in
// linux/capability.h: setuid, sys_module, sys_rawio, sys_ptrace, sys_boot, mac_admin.
var dropped = []int{7, 16, 17, 19, 22, 33}

// leastOf checks that no thread of a process has what it does not need.
func leastOf(t *testing.T, what string, pid int, report api.Privileges) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	must(t, err)
	threads := 0
	for _, task := range tasks {
		data, err := os.ReadFile(task)
		if err != nil {
			continue // it ended
		}
		threads++
		field := func(name string) (bits uint64) {
			_, rest, _ := strings.Cut(string(data), name+":")
			fmt.Sscanf(strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0]), "%x", &bits)
			return bits
		}
		for _, c := range dropped {
			if (field("CapEff")|field("CapPrm")|field("CapBnd")|field("CapInh")|field("CapAmb"))&(1<<c) != 0 {
				t.Errorf("%s: thread %s has capability %d", what, task, c)
			}
		}
		if field("NoNewPrivs") != 1 {
			t.Errorf("%s: thread %s may have new privileges", what, task)
		}
	}
	if threads < 3 {
		t.Errorf("%s: %d threads prove little", what, threads)
	}
	if !report.NoNewPrivs || !slices.Contains(report.Capabilities, "CAP_NET_ADMIN") || slices.Contains(report.Capabilities, "CAP_SETUID") || !slices.Equal(report.Capabilities, report.Bounding) {
		t.Errorf("%s: the status says %+v", what, report)
	}
}

// Once they run, balancer and agent have what they need and nothing else, in every
// thread, and all that a balancer does later still works: another policy out of a
// file, compiled by a child, another datapath type, other ports.
func TestLeastPrivilege(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2})
	report, err := c.Control().Status(t.Context())
	must(t, err)
	leastOf(t, "balancer", c.Server.Process.Pid, report.Privileges)
	admin := slices.Contains(report.Privileges.Capabilities, "CAP_SYS_ADMIN")
	t.Logf("kept: %v", report.Privileges.Capabilities)
	if told := strings.Contains(c.Server.Output(), "capability=CAP_SYS_ADMIN for="); admin != told {
		t.Errorf("it has CAP_SYS_ADMIN: %v, its log says why: %v", admin, told)
	}
	var st unix.Statfs_t
	if mounted := unix.Statfs("/sys/fs/bpf", &st) == nil && st.Type == unix.BPF_FS_MAGIC; admin && mounted && !strings.Contains(c.Server.Output(), "kernels") {
		t.Error("it keeps CAP_SYS_ADMIN on a machine with a BPF file system")
	}
	agent, err := control.AgentStatus(t.Context(), c.Backends[0].Socket())
	must(t, err)
	leastOf(t, "agent", c.Backends[0].Agent.Process.Pid, agent.Privileges)
	if out, _ := ctl(t, "status", "-server", c.ServerSocket()); !strings.Contains(out, "privileges: CAP_NET_BIND_SERVICE CAP_NET_ADMIN CAP_NET_RAW") {
		t.Errorf("status: %s", out)
	}

	h := hold(t, c, 12)
	other := "userspace"
	if c.Type == other {
		other = "tc"
	}
	for _, change := range []func(string) string{
		edit(fmt.Sprintf("type = %q", c.Type), fmt.Sprintf("type = %q", other)),
		edit(fmt.Sprintf("type = %q", other), fmt.Sprintf("type = %q", c.Type)),
		addAfter("[datapath]", "queues = 3"),
		func(s string) string { return "metrics = \"127.0.0.1:938\"\n" + s },
		edit(`listen = "[::]:1338"`, `listen = "[::]:738"`),
		edit(`listen = "[::]:738"`, `listen = "[::]:1338"`),
	} {
		if out, code := reloadWith(t, c, change); code != 0 {
			t.Errorf("exit code %d: %s", code, out)
		}
		h.check(t, "reloaded")
		newWorks(t, c, "reloaded", vips...)
	}
	file := filepath.Join(c.Dir, "mine.wasm")
	wasm, err := os.ReadFile("../policies/random.wasm")
	must(t, err)
	must(t, os.WriteFile(file, wasm, 0o644))
	if out, code := ctl(t, "policy", "swap", "web4", file, "-server", c.ServerSocket()); code != 0 {
		t.Errorf("swap: %s", out)
	}
	h.check(t, "another policy")
	newWorks(t, c, "another policy", vips...)
	for _, l := range h.lines {
		must(t, l.finish())
	}
}

// With capabilities = "all" nothing is given up.
func TestAllPrivileges(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 1, Type: "userspace"})
	must(t, c.WriteServerConfig(strings.Replace(c.ServerConfig(""), "[log]", "[sandbox]\ncapabilities = \"all\"\n[log]", 1)))
	must(t, c.StartServer(t.Context()))
	report, err := c.Control().Status(t.Context())
	must(t, err)
	if p := report.Privileges; p.NoNewPrivs || !slices.Contains(p.Capabilities, "CAP_SETUID") {
		t.Errorf("%+v", p)
	}
}

// unitCapabilities returns the capabilities that a unit leaves its service, as setpriv
// names them.
func unitCapabilities(t *testing.T, unit string) string {
	t.Helper()
	data, err := os.ReadFile("../cmd/caplance/units/" + unit + ".service")
	must(t, err)
	_, list, ok := strings.Cut(string(data), "CapabilityBoundingSet=")
	if !ok {
		t.Fatalf("%s bounds no capabilities", unit)
	}
	list, _, _ = strings.Cut(list, "\n")
	return strings.ToLower(strings.ReplaceAll("-all,+"+strings.Join(strings.Fields(list), ",+"), "CAP_", ""))
}

// With what the systemd units leave them, balancer and agents do all that they do as root:
// they balance, reload, and leave nothing.
func TestUnitsPrivileges(t *testing.T) {
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		nettest.Missing(t, "setpriv (package util-linux)")
	}
	caps := unitCapabilities(t, "caplance")
	if other := unitCapabilities(t, "caplance-agent"); other != caps {
		t.Fatalf("the agent's unit has others: %s", other)
	}
	c := prepare(t, cluster.Options{Backends: 2, Under: []string{setpriv, "--no-new-privs", "--bounding-set", caps, "--"}})
	lb, b1 := footprint(t, c, c.LB), footprint(t, c, c.Backends[0].Host)
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	for _, vip := range vips {
		l, err := openLine(t, c, vip)
		must(t, err)
		must(t, l.ping(5*time.Second))
		l.Close()
	}
	out, code := ctl(t, "reload", "-server", c.ServerSocket())
	if code != 0 {
		t.Errorf("reload: exit code %d: %s", code, out)
	}
	for _, b := range c.Backends {
		must(t, b.StopAgent())
	}
	must(t, c.Server.Stop(10*time.Second))
	for _, text := range []string{c.Server.Output(), c.Backends[0].Agent.Output()} {
		if strings.Contains(text, "permitted") || strings.Contains(text, "level=ERROR") {
			t.Error(text)
		}
	}
	if got := footprint(t, c, c.LB); got != lb {
		t.Errorf("the balancer left\n%s\nit had\n%s", got, lb)
	}
	if got := footprint(t, c, c.Backends[0].Host); got != b1 {
		t.Errorf("the agent left\n%s\nthere was\n%s", got, b1)
	}
}

// ownMounts gives the programs of a cluster mounts that no other test sees.
func ownMounts(t *testing.T, c *cluster.Cluster) *topology.Mounts {
	t.Helper()
	m, err := topology.NewMounts()
	must(t, err)
	t.Cleanup(func() { must(t, m.Close()) })
	c.LB.Mounts = m
	for _, b := range c.Backends {
		b.Mounts = m
	}
	return m
}

// What a predecessor mounted is unmounted at the end, though its successor could have
// done without.
func TestPredecessorsMount(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 1, Type: "tc", Timeout: "5s"})
	m := ownMounts(t, c)
	must(t, m.Mount("tmpfs", "/sys/fs/bpf", ""))
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	c.Server.Kill()
	must(t, m.Mount("bpf", "/sys/fs/bpf", "mode=0700"))
	must(t, c.StartServer(t.Context()))
	must(t, c.AwaitActive(t.Context(), 1))
	must(t, c.StopServer())
	if _, err := os.Stat(filepath.Join(c.Dir, "lb", "bpf")); !os.IsNotExist(err) {
		t.Errorf("the mount is left: %v", err)
	}
}

// With sandbox.paths a balancer and an agent work with their own files alone, policies
// out of the trees that are named among them, and say why if they could not be
// confined.
func TestSandboxPaths(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 2})
	must(t, ownMounts(t, c).Mount("bpf", "/sys/fs/bpf", "mode=0700"))
	mine, other := t.TempDir(), t.TempDir()
	wasm, err := os.ReadFile("../policies/random.wasm")
	must(t, err)
	for _, dir := range []string{mine, other} {
		must(t, os.WriteFile(filepath.Join(dir, "p.wasm"), wasm, 0o644))
	}
	sandbox := fmt.Sprintf("[sandbox]\npaths = [%q]\n", mine)
	must(t, c.WriteServerConfig(strings.Replace(c.ServerConfig(""), "[log]", sandbox+"[log]", 1)))
	for _, b := range c.Backends {
		b.Config += sandbox
	}
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	report, err := c.Control().Status(t.Context())
	must(t, err)
	switch p := report.Privileges; {
	case !p.Confined && strings.Contains(c.Server.Output(), "this kernel has no Landlock"):
		return
	case !p.Confined || slices.Contains(p.Capabilities, "CAP_SYS_ADMIN") && !strings.Contains(c.Server.Output(), "kernels without tcx"):
		t.Fatalf("not confined: %+v", p)
	}
	h := hold(t, c, 12)
	for dir, want := range map[string]string{mine: "done", other: "name the file's directory in sandbox.paths"} {
		file := filepath.Join(dir, "p.wasm")
		if out, _ := ctl(t, "policy", "swap", "web4", file, "-server", c.ServerSocket()); !strings.Contains(out, want) {
			t.Errorf("swap %s: %s", file, out)
		}
	}
	if out, code := reloadWith(t, c, edit(`policy = "round-robin"`, fmt.Sprintf("policy = %q", filepath.Join(other, "p.wasm")))); code == 0 || !strings.Contains(out, "in sandbox.paths") {
		t.Errorf("exit code %d: %s", code, out)
	}
	must(t, c.WriteServerConfig(strings.Replace(c.ServerConfig(""), "[log]", sandbox+"[log]", 1)))
	if out, code := reloadWith(t, c, addAfter("[datapath]", "queues = 3")); code != 0 {
		t.Errorf("exit code %d: %s", code, out)
	}
	h.check(t, "confined")
	newWorks(t, c, "confined", vips...)
	if c.Type != "userspace" {
		handover(t, c)
		<-c.Server.Done()
		must(t, c.StartServer(t.Context()))
		must(t, c.AwaitActive(t.Context(), 2))
		h.check(t, "handed over")
	}
	order(t, c, "drain b1")
	must(t, c.StopServer())
}
