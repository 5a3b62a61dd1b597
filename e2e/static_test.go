package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/e2e/cluster"
)

// static returns the TOML of backends of one service that have no agent, in direct mode.
func static(of ...*cluster.Backend) (toml string) {
	for _, b := range of {
		toml += fmt.Sprintf("[[service.backend]]\nname = %q\naddress = %q\nmode = \"direct\"\n[service.backend.check]\ninterval = \"200ms\"\n", b.Name, b.Data)
	}
	return toml
}

// withStatics returns the cluster's configuration with backends of service web4.
func withStatics(c *cluster.Cluster, backends string) string {
	return strings.Replace(c.ServerConfig(""), "[[service]]\nname = \"echo4\"", backends+"[[service]]\nname = \"echo4\"", 1)
}

// realServer makes a backend what IPVS' direct routing wants, and docs/configuration.md.
func realServer(t *testing.T, b *cluster.Backend) {
	t.Helper()
	must(t, b.AddAddr("lo", netip.PrefixFrom(cluster.VIP4, 32)))
	must(t, b.Sysctl("net.ipv4.conf.all.arp_ignore", "1"))
	must(t, b.Sysctl("net.ipv4.conf.all.arp_announce", "2"))
}

// awaitBackend waits until web4's backend is in a state, with a reason.
func awaitBackend(t *testing.T, c *cluster.Cluster, name string, state core.BackendState, reason string) {
	t.Helper()
	await(t, fmt.Sprintf("%s %s: %s", name, state, reason), func() error {
		rows, err := c.Control().BackendsOf(t.Context(), api.BackendFilter{Service: "web4", Backend: name})
		if err == nil && (len(rows) != 1 || rows[0].State != state || !strings.Contains(rows[0].Reason, reason)) {
			err = fmt.Errorf("%+v", rows)
		}
		return err
	})
}

// A service has a backend with an agent and two without, which are machines as IPVS has
// them. These are checked from the balancer, drained and reloaded as the other, and no
// agent gets one's name.
func TestStaticBackends(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 3})
	b1, b2, b3 := c.Backends[0], c.Backends[1], c.Backends[2]
	realServer(t, b2)
	realServer(t, b3)
	must(t, c.WriteServerConfig(withStatics(c, static(b2, b3))))
	must(t, c.StartServer(t.Context()))
	must(t, b1.StartAgent(t.Context()))
	for _, b := range c.Backends {
		awaitBackend(t, c, b.Name, core.Active, "")
	}
	even := func(want string, of int) {
		t.Helper()
		await(t, "flows at "+want, func() error {
			if got := fmt.Sprint(shares(t, c, cluster.VIP4, 10*of)); got != want {
				return fmt.Errorf("%s", got)
			}
			return nil
		})
	}
	even("map[b1:10 b2:10 b3:10]", 3)
	lines := openLines(t, c, cluster.VIP4, 9)

	b3.EndServices()
	awaitBackend(t, c, "b3", core.Unhealthy, "tcp: ")
	awaitBackend(t, c, "b3", core.Unhealthy, "connection refused")
	even("map[b1:10 b2:10]", 2)
	must(t, b3.Serve())
	awaitBackend(t, c, "b3", core.Active, "")
	even("map[b1:10 b2:10 b3:10]", 3)

	if out, code := ctl(t, "drain", "-server", c.ServerSocket(), "-reason", "new disk", "b2"); code != 0 {
		t.Fatalf("exit code %d: %s", code, out)
	}
	even("map[b1:10 b3:10]", 2)
	for _, l := range ofBackend(t, lines, "b2") {
		must(t, l.ping(5*time.Second))
	}
	if out, code := ctl(t, "resume", "-server", c.ServerSocket(), "b2"); code != 0 {
		t.Fatalf("exit code %d: %s", code, out)
	}
	even("map[b1:10 b2:10 b3:10]", 3)

	must(t, b2.StartAgent(t.Context()))
	await(t, "the agent's refusal", func() error {
		out, _ := ctl(t, "events", "-server", c.ServerSocket())
		if !strings.Contains(out, "backend b2 is in the balancer's configuration") || !strings.Contains(b2.Agent.Output(), "is in the balancer's configuration") {
			return fmt.Errorf("events: %s\nagent: %s", out, tail(b2.Agent.Output()))
		}
		return nil
	})
	must(t, b2.StopAgent())

	lines = openLines(t, c, cluster.VIP4, 9)
	must(t, c.WriteServerConfig(withStatics(c, static(b2))))
	out, code := ctl(t, "reload", "-server", c.ServerSocket())
	if want := `- service "web4".backend "b3": 10.77.0.13  # its flows are placed anew`; code != 0 || !strings.Contains(out, want) {
		t.Fatalf("exit code %d: %s, want %s", code, out, want)
	}
	even("map[b1:10 b2:10]", 2)
	for _, l := range append(ofBackend(t, lines, "b1"), ofBackend(t, lines, "b2")...) {
		must(t, l.ping(5*time.Second))
	}
}

// Flows of static backends go on when the balancer starts again, which finds them not
// checked yet.
func TestStaticBackendsRestart(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 3, Policy: "hash"})
	for _, b := range c.Backends {
		realServer(t, b)
	}
	must(t, c.WriteServerConfig(withStatics(c, static(c.Backends...))))
	must(t, c.StartServer(t.Context()))
	active := func() {
		for _, b := range c.Backends {
			awaitBackend(t, c, b.Name, core.Active, "")
		}
	}
	active()
	lines := openLines(t, c, cluster.VIP4, 60)
	c.Server.Kill()
	must(t, c.StartServer(t.Context()))
	for _, l := range lines {
		if err := l.ping(20 * time.Second); err != nil {
			t.Errorf("flow at %s: %v", l.backend, err)
		}
	}
	active()
	for _, l := range lines {
		if err := l.ping(20 * time.Second); err != nil {
			t.Errorf("flow at %s, with all backends back: %v", l.backend, err)
		}
	}
}

// In mode tunnel a backend's own kernel takes packets out (FOU), set up as
// docs/configuration.md says: no program of ours is there.
func TestStaticTunnel(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 2})
	for _, b := range c.Backends {
		must(t, b.AddAddr("lo", netip.PrefixFrom(cluster.VIP4, 32)))
		must(t, b.Do(func() error {
			err := netlink.FouAdd(netlink.Fou{Family: unix.AF_INET, Port: 1337, Protocol: unix.IPPROTO_IPIP, EncapType: netlink.FOU_ENCAP_DIRECT})
			if err != nil {
				nettest.Unbuilt(t, fmt.Sprintf("FOU (modprobe fou): %v", err))
			}
			link := &netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Name: "caplance"}, FlowBased: true}
			return errors.Join(netlink.LinkAdd(link), netlink.LinkSetUp(link))
		}))
		for _, link := range []string{"all", "default", "caplance", "tunl0"} {
			must(t, b.Sysctl("net.ipv4.conf."+link+".rp_filter", "0"))
		}
	}
	backends := strings.ReplaceAll(static(c.Backends...), `mode = "direct"`, `mode = "tunnel"`)
	must(t, c.WriteServerConfig(withStatics(c, backends)))
	must(t, c.StartServer(t.Context()))
	for _, b := range c.Backends {
		awaitBackend(t, c, b.Name, core.Active, "")
	}
	await(t, "flows at both", func() error { // a worker hears of a backend some ms after it is active
		if got := fmt.Sprint(shares(t, c, cluster.VIP4, 10)); got != "map[b1:5 b2:5]" {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
	for _, l := range openLines(t, c, cluster.VIP4, 10) {
		must(t, l.ping(5*time.Second))
	}
	data := bytes.Repeat([]byte("caplance"), 1<<17) // long packets, and offloads
	if err := upload(t, c, cluster.VIP4, bytes.NewReader(data), int64(len(data)), fmt.Sprintf("%x", sha256.Sum256(data))); err != nil {
		t.Error(err)
	}
}

// A static backend that packets do not get to in its mode takes no flow, and says why.
func TestStaticBackendAstray(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 1, Routed: true})
	realServer(t, c.Backends[0])
	nowhere := "[[service.backend]]\nname = \"lost\"\naddress = \"198.51.100.7\"\n[service.backend.check]\ntype = \"none\"\n"
	must(t, c.WriteServerConfig(withStatics(c, static(c.Backends[0])+nowhere)))
	must(t, c.StartServer(t.Context()))
	awaitBackend(t, c, "b1", core.Unreachable, "mode direct needs a backend on a link of the balancer's")
	awaitBackend(t, c, "lost", core.Unreachable, "no route to 198.51.100.7")
}
