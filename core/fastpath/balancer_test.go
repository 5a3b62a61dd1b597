package fastpath

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/e2e/require"
	"github.com/vishvananda/netlink"
)

// testLink makes a link to attach to in a namespace of the test's own.
func testLink(t testing.TB) (name string, index int) {
	t.Helper()
	require.NetNS(t)
	l := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}}
	if err := netlink.LinkAdd(l); err != nil {
		t.Fatal(err)
	}
	return "eth0", l.Attrs().Index
}

var (
	both    = []uint8{core.ProtoTCP, core.ProtoUDP}
	other   = netip.MustParseAddrPort("192.0.2.99:80")  // a service of TCP alone
	metered = netip.MustParseAddrPort("192.0.2.1:8443") // a service with a budget of one upcall
)

func testConfig(t testing.TB, link string) Config {
	all := []core.PortRange{core.AllPorts}
	return Config{Links: []string{link}, Flows: 1024, StateDir: t.TempDir(), Services: []*core.Service{
		{Index: 0, Name: "other", VIP: other.Addr(), Protos: both[:1], Ports: all},
		{Index: 1, Name: "web", VIP: vip4.Addr(), Protos: both, Ports: []core.PortRange{{First: 443, Last: 444}, {First: 8000, Last: 8002}}, Seed: 4711},
		{Index: 2, Name: "web6", VIP: vip6.Addr(), Protos: both, Ports: all, Seed: 4712},
		{Index: 3, Name: "metered", VIP: metered.Addr(), Protos: both, Ports: []core.PortRange{{First: 8443, Last: 8443}}, Upcalls: 1, Seed: 4713},
	}}
}

// open loads a balancer with a living daemon, attached to nothing.
func open(t testing.TB, cfg Config) *Balancer {
	t.Helper()
	b, err := OpenBalancer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := b.Beat(); err != nil {
		t.Fatal(err)
	}
	return b
}

// establish puts a flow into the kernel as its second packet would.
func establish(t testing.TB, b *Balancer, k *core.FlowKey, service uint16, h core.Handle) {
	t.Helper()
	place(t, b, k, service, h)
	key := flowKey(k, b.vips[k.Dst])
	var v balanceFlow
	if err := errors.Join(b.objs.Pending.LookupAndDelete(&key, &v), b.objs.Flows.Put(&key, &v)); err != nil {
		t.Fatal(err)
	}
}

// place puts a flow into the kernel as a worker does.
func place(t testing.TB, b *Balancer, k *core.FlowKey, service uint16, h core.Handle) {
	t.Helper()
	p := b.Placer()
	if !p.Add(k, service, h, 1, 40) {
		t.Fatal("flow refused")
	}
	p.Flush()
	if got, ok := p.Find(k); !ok || got != h {
		t.Fatalf("flow not found: %v %v", got, ok)
	}
}
