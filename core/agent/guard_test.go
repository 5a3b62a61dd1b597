package agent

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
)

// What the machine needs itself is no VIP, whatever a balancer says.
func TestGuard(t *testing.T) {
	addr := netip.MustParseAddr
	g := &guard{
		own:      map[netip.Addr]bool{addr("10.0.0.11"): true},
		networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.11/24"), netip.MustParsePrefix("10.1.0.0/31"), netip.MustParsePrefix("2001:db8:1::1/64")},
		gateways: map[netip.Addr]bool{addr("10.0.0.1"): true},
		resolver: map[netip.Addr]bool{addr("2001:db8::53"): true},
	}
	for vip, want := range map[string]string{
		"192.0.2.1":        "",
		"10.0.0.12":        "",
		"10.0.0.11":        "an address of a link",
		"10.0.0.1":         "a gateway",
		"2001:db8::53":     "a resolver",
		"127.0.0.1":        "a loopback address", // what listens there is for nobody else
		"::1":              "a loopback address",
		"0.0.0.0":          "an unspecified address",
		"::":               "an unspecified address",
		"224.0.0.1":        "a multicast address",
		"ff02::1":          "a multicast address",
		"169.254.1.1":      "a link-local address",
		"fe80::1":          "a link-local address",
		"255.255.255.255":  "the broadcast address",
		"10.0.0.255":       "the broadcast address of a network",
		"2001:db8::9%eth0": "an address of one link",
		"10.1.0.1":         "",
		"10.0.1.255":       "",
		"2001:db8:1::ffff": "",
	} {
		if err := g.refuses(addr(vip)); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", vip, err, want)
		}
	}
	g.allowed = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("10.0.0.0/24")}
	for vip, want := range map[string]bool{"192.0.2.9": true, "10.0.0.12": true, "10.0.0.1": false, "198.51.100.1": false, "2001:db8::1": false} {
		if err := g.refuses(addr(vip)); (err == nil) != want {
			t.Errorf("%s: %v", vip, err)
		}
	}
}

func TestResolvers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("# nameserver 192.0.2.9\nsearch x\nnameserver 127.0.0.53\n nameserver 192.0.2.53 \nnameserver fe80::1%eth0\nnameserver x\nnameserver\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(resolvers(file)); got != "map[192.0.2.53:true fe80::1:true]" {
		t.Error(got)
	}
	if got := resolvers(file + "x"); len(got) != 0 {
		t.Errorf("%v of no file", got)
	}
}

// twoServices returns a balancer with a service at each VIP.
func twoServices(t *testing.T) *balancer {
	b := newBalancer(t, freePort(t))
	all := []core.PortRange{core.AllPorts}
	b.settings.Services = []string{"web", "web6"}
	b.registry.Update(b.settings)
	b.offer.Services = []*core.Service{
		{Name: "web", VIP: vip4, Protos: []uint8{core.ProtoTCP}, Ports: all}, {Name: "web6", VIP: vip6, Protos: []uint8{core.ProtoTCP}, Ports: all},
	}
	return b
}

// A VIP that the agent refuses takes its services down here, with the reason, and no
// others.
func TestRefusedVIP(t *testing.T) {
	b := twoServices(t)
	cfg := b.config()
	cfg.VIPNetworks = []netip.Prefix{netip.MustParsePrefix("2001:db8::/32")}
	a := start(t, cfg)
	b.until("b1 active")
	down := func() string {
		return fmt.Sprintf("%v%v", b.registry.Backends()[0].State, b.registry.Backends()[0].Down)
	}
	a.eventually("active[{web vip 192.0.2.1 is in none of this agent's vip_networks [2001:db8::/32]}]", down)
	if got := a.serves(); got != "2001:db8::1 at 1400 bytes" {
		t.Errorf("serves %s", got)
	}
	mustReload(t, a, func(c *Config) { c.VIPNetworks = nil })
	a.eventually("active[]", down)
	a.eventually("192.0.2.1,2001:db8::1 at 1400 bytes", a.serves)
}

// What the machine comes to need while it serves is taken off lo, and put on it again
// when it is needed no more: the balancer hears of both.
func TestVIPRefusedLater(t *testing.T) {
	b := twoServices(t)
	var now atomic.Pointer[guard]
	now.Store(new(guard))
	a := startWith(t, b.config(), slog.DiscardHandler, func(a *Agent) { a.guards, a.guardEvery = now.Load, 10*time.Millisecond })
	b.until("b1 active")
	a.eventually("192.0.2.1,2001:db8::1 at 1400 bytes", a.serves)
	down := func() string {
		return fmt.Sprintf("%v%v", b.registry.Backends()[0].State, b.registry.Backends()[0].Down)
	}
	a.eventually("active[]", down)
	for range 2 {
		now.Store(&guard{resolver: map[netip.Addr]bool{vip4: true}})
		a.eventually("2001:db8::1 at 1400 bytes", a.serves)
		a.eventually("active[{web vip 192.0.2.1 is a resolver of this machine's (/etc/resolv.conf)}]", down)
		now.Store(new(guard))
		a.eventually("192.0.2.1,2001:db8::1 at 1400 bytes", a.serves)
		a.eventually("active[]", down)
	}
}
