package e2e

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/e2e/cluster"
)

// A backend whose session works while its packets do not arrive gets no new flows,
// and everybody can see why; once they arrive it does again.
func TestUnreachableBackend(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2, Policy: "round-robin"})
	b1 := c.Backends[0]
	awaitRow(t, c, "b1 with the time its path takes and its load", func(r api.BackendRow) bool { return r.State == core.Active && r.RTT > 0 && r.Load != nil })
	loss, err := b1.LoseUDP("eth0", 1337, 0)
	must(t, err)
	defer loss.Close()
	awaitRow(t, c, "b1 unreachable", func(r api.BackendRow) bool {
		return r.State == core.Unreachable && strings.Contains(r.Reason, "did not arrive")
	})
	for range 10 {
		if b, err := httpGet(t, c, cluster.VIP4); err != nil || b != "b2" {
			t.Errorf("a new connection went to %s, %v", b, err)
		}
	}
	if out, code := ctl(t, "backends", "-server", c.ServerSocket()); code != 0 || !strings.Contains(out, "b1 (web4, echo4, web6, echo6) unreachable: ") {
		t.Errorf("caplancectl does not say why:\n%s", out)
	}
	must(t, loss.Close())
	awaitRow(t, c, "b1 active again", func(r api.BackendRow) bool { return r.State == core.Active && r.Reason == "" && r.RTT > 0 })
	await(t, "new connections at b1", func() error {
		if b, err := httpGet(t, c, cluster.VIP4); err != nil || b != "b1" {
			return fmt.Errorf("%s, %v", b, err)
		}
		return nil
	})
}

// Long packets that do not arrive while short ones do are no reason to send none, but
// to say so.
func TestNarrowPath(t *testing.T) {
	c := start(t, cluster.Options{Backends: 1})
	loss, err := c.Backends[0].LoseUDP("eth0", 1337, 1400)
	must(t, err)
	defer loss.Close()
	awaitRow(t, c, "the warning", func(r api.BackendRow) bool {
		return r.State == core.Active && strings.Contains(r.Warning, "packets of 1472 bytes do not arrive")
	})
	must(t, loss.Close())
	awaitRow(t, c, "no warning", func(r api.BackendRow) bool { return r.State == core.Active && r.Warning == "" })
}

// awaitRow waits for what b1 is in web4.
func awaitRow(t *testing.T, c *cluster.Cluster, what string, ok func(api.BackendRow) bool) {
	t.Helper()
	await(t, what, func() error {
		rows, err := c.Control().BackendsOf(t.Context(), api.BackendFilter{Service: "web4", Backend: "b1"})
		if err == nil && (len(rows) != 1 || !ok(rows[0])) {
			err = fmt.Errorf("%+v", rows)
		}
		return err
	})
}

// A service that dies on one backend gets no new flows there, within a second by the
// default check, while the backend's others go on; it gets them again when it is
// back. So it is when nobody listens from the start.
func TestDeadService(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 2})
	must(t, c.WriteServerConfig(c.ServerConfig("")+fmt.Sprintf(`
[[service]]
name = "late"
vip = %q
protocol = "tcp"
ports = [4000]
policy = "round-robin"
`, cluster.VIP4)))
	late := netip.AddrPortFrom(cluster.VIP4, 4000)
	serve := func(i int) net.Listener {
		b := c.Backends[i]
		l, err := b.Listen("0.0.0.0:4000")
		must(t, err)
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintln(conn, b.Name)
				conn.Close()
			}
		}()
		return l
	}
	ask := func() string {
		conn, err := dial(t, c, late)
		if err != nil {
			return err.Error()
		}
		defer conn.Close()
		b, _ := io.ReadAll(conn)
		return strings.TrimSpace(string(b))
	}
	all := func(want string) {
		t.Helper()
		for range 8 {
			if got := ask(); got != want {
				t.Errorf("answered by %q, want %s", got, want)
			}
		}
	}
	first := serve(1)
	defer func() { first.Close() }()
	must(t, c.StartServer(t.Context()))
	for _, b := range c.Backends {
		must(t, b.StartAgent(t.Context()))
	}
	row := func(service, backend string) (r api.BackendRow) {
		rows, err := c.Control().BackendsOf(t.Context(), api.BackendFilter{Service: service, Backend: backend})
		if err == nil && len(rows) == 1 {
			r = rows[0]
		}
		return r
	}
	is := func(backend string, state core.BackendState, reason string) {
		t.Helper()
		await(t, fmt.Sprintf("%s to be %s", backend, state), func() error {
			if r := row("late", backend); r.State != state || r.Name == "" || (reason == "") != (r.Reason == "") || !strings.Contains(r.Reason, reason) {
				return fmt.Errorf("%s: %s", r.State, r.Reason)
			}
			return nil
		})
	}
	nobody := "listen: nothing listens at " + late.String() + "/tcp"
	is("b1", core.Unhealthy, nobody)
	is("b2", core.Active, "")
	all("b2")
	if r := row("web4", "b1"); r.State != core.Active {
		t.Errorf("its other service is %s: %s", r.State, r.Reason)
	}
	second := serve(0)
	defer func() { second.Close() }()
	is("b1", core.Active, "")
	first.Close()
	is("b2", core.Unhealthy, nobody)
	all("b1")
	second.Close()
	is("b1", core.Unhealthy, nobody)
	if got := ask(); !strings.Contains(got, "refused") {
		t.Errorf("with the service dead everywhere: %s", got)
	}
}

// Backends that should be there and are not show as missing, and below panic_threshold
// failing checks are ignored.
func TestMissingBackends(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 2})
	c.Backends[0].Config = "[[check]]\nservice = \"*\"\ntype = \"script\"\ncommand = [\"/bin/false\"]\ninterval = \"200ms\""
	must(t, c.WriteServerConfig(c.ServerConfig("expected = [\"b1\", \"b2\"]\npanic_threshold = 40")))
	must(t, c.StartServer(t.Context()))
	for _, b := range c.Backends {
		must(t, b.StartAgent(t.Context()))
	}
	awaitRow(t, c, "b1 unhealthy by its script", func(r api.BackendRow) bool {
		return r.State == core.Unhealthy && strings.Contains(r.Reason, "script /bin/false: exit status 1")
	})
	must(t, c.Backends[1].StopAgent())
	await(t, "b2 missing, and b1 in spite of its check", func() error {
		out, code := ctl(t, "backends", "-service", "web4", "-server", c.ServerSocket())
		if code != 0 || !strings.Contains(out, "b2 (web4) missing: expected by the configuration, and not registered") {
			return fmt.Errorf("exit code %d: %s", code, out)
		}
		name, err := httpGet(t, c, cluster.VIP4)
		if err == nil && name != "b1" {
			err = fmt.Errorf("answered by %s", name)
		}
		return err
	})
	if out, code := ctl(t, "status", "-server", c.ServerSocket()); !strings.Contains(out, "service web4: so few of its backends are well that their health is ignored") {
		t.Errorf("exit code %d: %s", code, out)
	}
}

// A VIP with fewer backends than min_backends is taken off its link, so that nobody is
// sent here; it is announced again when they are back.
func TestWithdrawnVIP(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 2})
	must(t, c.WriteServerConfig(c.ServerConfig("min_backends = 2")))
	must(t, c.StartServer(t.Context()))
	must(t, c.Backends[0].StartAgent(t.Context()))
	onLink := func(want bool, vip netip.Addr) error {
		status, err := c.Control().Status(t.Context())
		if err != nil {
			return err
		}
		says := strings.Contains(strings.Join(status.Warnings, "\n"), "fewer than its min_backends (2): VIP "+vip.String()+" is withdrawn")
		if has := strings.Contains(footprint(t, c, c.LB), vip.String()+"/"); has != want || says == want || status.Healthy != want {
			return fmt.Errorf("address on the link: %v; healthy %v: %s", has, status.Healthy, status.Warnings)
		}
		return nil
	}
	for _, vip := range []netip.Addr{cluster.VIP4, cluster.VIP6} {
		await(t, vip.String()+" withdrawn with one backend", func() error { return onLink(false, vip) })
	}
	must(t, c.Backends[1].StartAgent(t.Context()))
	for _, vip := range []netip.Addr{cluster.VIP4, cluster.VIP6} {
		await(t, vip.String()+" back with two", func() error { return onLink(true, vip) })
		await(t, "a connection to "+vip.String(), func() error { _, err := httpGet(t, c, vip); return err })
	}
	must(t, c.Backends[1].StopAgent())
	await(t, "withdrawn once more", func() error { return onLink(false, cluster.VIP4) })
	out, code := ctl(t, "events", "-server", c.ServerSocket())
	for _, want := range []string{"VIP withdrawn: too few backends take new flows", "VIP announced again"} {
		if !strings.Contains(out, want) {
			t.Errorf("exit code %d: no event %q in %s", code, want, out)
		}
	}
}

// A VIP that an agent's machine needs itself, or that is outside its vip_networks, is not
// put on lo there: its services are down, with the reason, and the others go on.
func TestRefusedVIPs(t *testing.T) {
	c := prepare(t, cluster.Options{Backends: 3})
	gateway, outside := c.Backends[0], c.Backends[1]
	must(t, gateway.Route(netip.MustParsePrefix("198.51.100.0/24"), cluster.VIP4))
	outside.Config = fmt.Sprintf("vip_networks = [%q]", netip.PrefixFrom(cluster.VIP6, 128))
	must(t, c.StartServer(t.Context()))
	for _, b := range c.Backends {
		must(t, b.StartAgent(t.Context()))
	}
	refuses(t, c, gateway, "is a gateway of this machine's routes")
	refuses(t, c, outside, "is in none of this agent's vip_networks")
	for range 6 {
		if name, err := httpGet(t, c, cluster.VIP4); err != nil || name != "b3" {
			t.Errorf("a new connection went to %s, %v", name, err)
		}
	}
	newWorks(t, c, "at the other VIP", cluster.VIP6)

	later := c.Backends[2] // its link gets the VIP while it serves it
	must(t, later.AddAddr("eth0", netip.PrefixFrom(cluster.VIP4, 24)))
	refuses(t, c, later, "is an address of a link")
	must(t, later.Do(func() error { return delPrefix("eth0", netip.PrefixFrom(cluster.VIP4, 24)) }))
	await(t, "the VIP to be served again", func() error {
		_, err := httpGet(t, c, cluster.VIP4)
		return err
	})
}

// refuses waits until a backend does not serve VIP4, for a reason, and VIP6 still.
func refuses(t *testing.T, c *cluster.Cluster, b *cluster.Backend, reason string) {
	t.Helper()
	await(t, b.Name+" to refuse a VIP", func() error {
		for service, want := range map[string]core.BackendState{"web4": core.Unhealthy, "web6": core.Active} {
			rows, err := c.Control().BackendsOf(t.Context(), api.BackendFilter{Service: service, Backend: b.Name})
			if err != nil {
				return err
			}
			if len(rows) != 1 || rows[0].State != want || want == core.Unhealthy && !strings.Contains(rows[0].Reason, reason) {
				return fmt.Errorf("%+v", rows)
			}
		}
		return nil
	})
	await(t, "lo of "+b.Name+" without the VIP", func() error {
		return b.Do(func() error {
			lo, err := net.InterfaceByName("lo")
			if err != nil {
				return err
			}
			addrs, err := lo.Addrs()
			for _, a := range addrs {
				if strings.HasPrefix(a.String(), cluster.VIP4.String()+"/") {
					err = fmt.Errorf("%v is on lo", a)
				}
			}
			return err
		})
	})
}
