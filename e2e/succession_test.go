package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/e2e/cluster"
)

// succession is how a successor process comes.
type succession struct {
	name string
	end  func(t *testing.T, c *cluster.Cluster)
}

var successions = []succession{
	{"kill", func(_ *testing.T, c *cluster.Cluster) { c.Server.Kill() }},
	{"handover", func(t *testing.T, c *cluster.Cluster) {
		handover(t, c)
		<-c.Server.Done()
	}},
}

// takenOver waits until the successor has all backends and the flows.
func takenOver(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	must(t, c.StartServer(t.Context()))
	must(t, c.AwaitActive(t.Context(), len(c.Backends)))
	await(t, "the takeover", func() error {
		if !strings.Contains(c.Server.Output(), "taken over") {
			return errors.New("not in the log")
		}
		return nil
	})
}

// reversed returns the configuration with its services the other way round.
func reversed(toml string) string {
	parts := strings.Split(toml, "[[service]]")
	out := parts[0]
	for i := len(parts) - 1; i > 0; i-- {
		out += "[[service]]" + strings.TrimRight(parts[i], "\n") + "\n"
	}
	return out
}

// A successor takes over the flows of services that still exist, by name,
// whatever was added, removed, reordered or resized between the two.
func TestSuccessionWithOtherServices(t *testing.T) {
	added := "[[service]]\nname = \"added\"\nvip = \"10.77.0.201\"\nprotocol = \"tcp\"\nports = [7]\n"
	for i, s := range successions {
		for j, tt := range []struct {
			name   string
			change func(string) string
		}{
			{"added first", func(s string) string { return strings.Replace(s, "[[service]]", added+"[[service]]", 1) }},
			{"reordered", reversed},
			{"another removed", func(s string) string { // echo4, the second
				parts := strings.Split(s, "[[service]]")
				return strings.Join(append(parts[:2], parts[3:]...), "[[service]]")
			}},
			{"another renamed", edit(`name = "echo4"`, `name = "echo"`)},
			{"larger flow table", addAfter("[datapath]", "flows = 2000000")},
			{"smaller flow table", addAfter("[datapath]", "flows = 50000")},
			{"other timeouts and seed", edit(`policy = "round-robin"`, "policy = \"round-robin\"\nseed = 99")},
		} {
			if (i+j)%2 != 0 {
				continue // each change with one of them
			}
			t.Run(s.name+"/"+tt.name, func(t *testing.T) {
				c := inTheKernel(t, cluster.Options{Backends: 3, Policy: "round-robin", Timeout: "5s"})
				h := hold(t, c, 40)
				toml, err := os.ReadFile(c.ServerFile())
				must(t, err)
				changed := tt.change(string(toml))
				if changed == string(toml) {
					t.Fatal("this proves nothing: the configuration does not change")
				}
				s.end(t, c)
				must(t, c.WriteServerConfig(changed))
				h.check(t, "nobody runs")
				must(t, c.StartServer(t.Context()))
				h.check(t, "just started")
				must(t, c.AwaitActive(t.Context(), 3))
				newWorks(t, c, "taken over", vips...)
				h.check(t, "taken over")
				for _, l := range h.lines {
					must(t, l.finish())
				}
			})
		}
	}
}

// What the kernel has is adopted whatever files say: a damaged or missing state
// is no reason to lose flows, nor one that is older than any timeout.
func TestSuccessionWithoutAFile(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(dir string) error
	}{
		{"damaged", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "state.json.gz"), []byte("nonsense"), 0o600)
		}},
		{"empty", func(dir string) error { return os.WriteFile(filepath.Join(dir, "state.json.gz"), nil, 0o600) }},
		{"missing", func(dir string) error { return os.RemoveAll(filepath.Join(dir, "state.json.gz")) }},
		{"old", func(dir string) error {
			return os.Chtimes(filepath.Join(dir, "state.json.gz"), time.Unix(1, 0), time.Unix(1, 0))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := inTheKernel(t, cluster.Options{Backends: 2, Policy: "round-robin", Timeout: "5s", Server: ""})
			h := hold(t, c, 40)
			await(t, "the saved state", func() error {
				_, err := os.Stat(filepath.Join(c.Dir, "lb", "state.json.gz"))
				return err
			})
			c.Server.Kill()
			must(t, tt.do(filepath.Join(c.Dir, "lb")))
			takenOver(t, c)
			h.check(t, tt.name)
		})
	}
}

// Pools that were unchanged for longer than the longest timeout are no old
// pools: the predecessor lived until its kill.
func TestSuccessionAfterALongCalm(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 2, Policy: "round-robin", Timeout: "5s", Type: "tc"})
	must(t, c.WriteServerConfig(strings.Replace(c.ServerConfig(""), "[registry]", "[datapath.timeouts]\ntcp = \"4s\"\n[registry]", 1)))
	must(t, c.StartServer(t.Context()))
	must(t, c.StartAgents(t.Context()))
	h := hold(t, c, 20)
	for begin := time.Now(); time.Since(begin) < 6*time.Second; {
		h.check(t, "calm")
		<-time.After(time.Second)
	}
	c.Server.Kill()
	takenOver(t, c)
	h.check(t, "after the calm")
}

// A successor that fails leaves the predecessor's flows, rules and VIPs at
// work, and so does a second balancer beside a running one.
func TestFailingSuccessor(t *testing.T) {
	c := inTheKernel(t, cluster.Options{Backends: 2, Policy: "round-robin", Timeout: "5s"})
	h := hold(t, c, 40)
	good, err := os.ReadFile(c.ServerFile())
	must(t, err)
	taken, err := c.LB.Listen("127.0.0.1:9338")
	must(t, err)
	defer taken.Close()
	bad := []struct{ name, toml, want string }{
		{"metrics port taken", "metrics = \"127.0.0.1:9338\"\n" + string(good), "metrics"},
		{"missing policy", strings.ReplaceAll(string(good), "round-robin", "/nowhere/x.wasm"), `service "web4"`},
		{"refused option", "nonsense = 1\n" + string(good), "unknown key"},
		{"own address", strings.ReplaceAll(string(good), cluster.VIP4.String(), "10.77.0.1"), "own address"},
	}
	for _, tt := range append(bad, struct{ name, toml, want string }{
		"second balancer", strings.ReplaceAll(strings.ReplaceAll(string(good), "/lb\"", "/lb2\""), "lb.sock", "lb2.sock"), "another",
	}) {
		must(t, c.WriteServerConfig(tt.toml))
		p, err := c.LB.Start(filepath.Join(c.Bin, "caplance"), "server", "-c", c.ServerFile())
		must(t, err)
		<-p.Done()
		if code := p.ProcessState.ExitCode(); code != 1 || !strings.Contains(p.Output(), tt.want) && !strings.Contains(p.Output(), "another running instance") {
			t.Errorf("%s beside a running one: exit code %d, want 1 with %q:\n%s", tt.name, code, tt.want, p.Output())
		}
		h.check(t, tt.name)
		newWorks(t, c, tt.name, vips...)
	}
	c.Server.Kill()
	before := footprint(t, c, c.LB)
	for _, tt := range bad {
		must(t, c.WriteServerConfig(tt.toml))
		if err := c.StartServer(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s after a kill: %v, want one with %q", tt.name, err, tt.want)
		}
		h.check(t, tt.name+" after a kill")
	}
	newWorksSlowly(t, c)
	same(t, "balancer", before, footprint(t, c, c.LB))
	must(t, c.WriteServerConfig(string(good)))
	takenOver(t, c)
	h.check(t, "a good one at last")
}

// newWorksSlowly waits for new connections that the kernel places, once it has
// found the balancer silent.
func newWorksSlowly(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	await(t, "new connections placed by the kernel", func() error {
		for _, vip := range vips {
			l, err := tryLine(c, vip, time.Second)
			if err != nil {
				return err
			}
			l.Close()
		}
		return nil
	})
}

// While nobody runs after a handover the kernel places new flows at once, and
// none of them fails.
func TestHandoverPlacesNewFlows(t *testing.T) {
	c := inTheKernel(t, cluster.Options{Backends: 3, Policy: "round-robin", Timeout: "5s"})
	h := hold(t, c, 20)
	out, code := ctl(t, "handover", "-server", c.ServerSocket())
	if code != 0 || !strings.Contains(out, "backends 3") {
		t.Errorf("exit code %d: %s", code, out)
	}
	<-c.Server.Done()
	for i := range 200 {
		l, err := tryLine(c, vips[i%2], time.Second)
		if err != nil {
			t.Fatalf("connection %d while nobody runs: %v", i, err)
		}
		l.Close()
	}
	h.check(t, "nobody runs")
	takenOver(t, c)
	h.check(t, "taken over")
	if strings.Contains(c.Server.Output(), "killed") {
		t.Error("a handover is called a kill")
	}
}

// A balancer in a mount namespace of its own (systemd's PrivateTmp) pins where a
// successor finds it, if the machine has a BPF file system; else it says so.
func TestPrivateMounts(t *testing.T) {
	for _, machine := range []bool{true, false} {
		t.Run(fmt.Sprintf("file system %v", machine), func(t *testing.T) {
			c := prepare(t, cluster.Options{Backends: 2, Policy: "round-robin", Timeout: "5s", Type: "tc"})
			kind := "bpf"
			if !machine {
				kind = "tmpfs"
			}
			must(t, ownMounts(t, c).Mount(kind, "/sys/fs/bpf", "mode=0700"))
			c.PrivateMounts = true
			must(t, c.StartServer(t.Context()))
			must(t, c.StartAgents(t.Context()))
			h := hold(t, c, 20)
			out, _ := ctl(t, "status", "-server", c.ServerSocket())
			if warned := strings.Contains(out, "mount namespace"); warned == machine {
				t.Errorf("status:\n%s", out)
			}
			if !machine {
				return
			}
			c.Server.Kill()
			takenOver(t, c)
			h.check(t, "killed and started again")
		})
	}
}

// A state directory that others may write is not trusted.
func TestUnsafeStateDirectory(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 1})
	dir := filepath.Join(c.Dir, "lb")
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.Chmod(dir, 0o777))
	if err := c.StartServer(t.Context()); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("error %v, want one that names %s", err, dir)
	}
	must(t, os.Chmod(dir, 0o755))
	must(t, os.WriteFile(c.ServerSocket(), []byte("precious"), 0o600))
	if err := c.StartServer(t.Context()); err == nil {
		t.Error("a file that is no socket was removed for the control socket")
	}
	if got, err := os.ReadFile(c.ServerSocket()); err != nil || string(got) != "precious" {
		t.Errorf("%q, %v", got, err)
	}
	must(t, os.Remove(c.ServerSocket()))
	must(t, c.StartServer(t.Context()))
}

// A state directory that is full for a moment, or whose file somebody takes away:
// the state is saved again as soon as that is possible.
func TestSavedStateComesBack(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2, Type: "userspace"})
	file := filepath.Join(c.Dir, "lb", "state.json.gz")
	settled := func(what string) {
		t.Helper()
		await(t, what, func() error {
			if _, err := os.Stat(file + ".new"); !errors.Is(err, os.ErrNotExist) {
				return errors.New("not on the disk yet")
			}
			_, err := os.Stat(file)
			return err
		})
	}
	settled("the saved state")
	must(t, os.Remove(file))
	settled("the saved state, again")
	if !strings.Contains(c.Server.Output(), "saved state was gone") {
		t.Error("nothing in the log")
	}
	// A directory in its place is as good as a full disk.
	must(t, os.MkdirAll(filepath.Join(file+".new", "x"), 0o700))
	must(t, os.Remove(file))
	await(t, "a warning", func() error {
		s, err := c.Control().Status(t.Context())
		if err == nil && !strings.Contains(strings.Join(s.Warnings, "\n"), "state not saved") {
			err = errors.New("none")
		}
		return err
	})
	must(t, os.RemoveAll(file+".new"))
	settled("the saved state, after all")
}
