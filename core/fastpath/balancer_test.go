package fastpath

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/nettest"
	"github.com/vishvananda/netlink"
)

// testLink makes a link to attach to in a namespace of the test's own.
func testLink(t testing.TB) (name string, index int) {
	t.Helper()
	nettest.NetNS(t)
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

// testSnapshot has four services and no backends.
func testSnapshot(links ...core.Link) *core.Snapshot {
	all := []core.PortRange{core.AllPorts}
	services := []*core.Service{
		{ID: 0, Name: "other", VIP: other.Addr(), Protos: both[:1], Ports: all},
		{ID: 1, Name: "web", VIP: vip4.Addr(), Protos: both, Ports: []core.PortRange{{First: 443, Last: 444}, {First: 8000, Last: 8002}}, Seed: 4711},
		{ID: 2, Name: "web6", VIP: vip6.Addr(), Protos: both, Ports: all, Seed: 4712},
		{ID: 3, Name: "metered", VIP: metered.Addr(), Protos: both, Ports: []core.PortRange{{First: 8443, Last: 8443}}, Upcalls: 1, Seed: 4713},
	}
	return &core.Snapshot{
		Settings: &core.Settings{Type: core.TC, Flows: 1024, MaxBackends: 1024, TunnelPort: port},
		Services: core.NewServiceSet(services), Pools: core.NewPoolSet(),
		VIPs:  &core.VIPSet{List: []core.VIP{{Addr: other.Addr(), Number: 7}, {Addr: vip4.Addr(), Number: 0}, {Addr: vip6.Addr(), Number: 300}}},
		Links: &core.LinkSet{List: links}, Complete: true,
	}
}

// open loads a balancer with a living daemon for a snapshot, attached to the
// snapshot's links.
func open(t testing.TB, s *core.Snapshot) *Balancer {
	t.Helper()
	b := openIn(t, t.TempDir(), s)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// openIn does so with a state directory and leaves it to the test to close.
func openIn(t testing.TB, dir string, s *core.Snapshot) *Balancer {
	t.Helper()
	b, err := Open(Config{StateDir: dir, Settings: s.Settings})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Add(t.Context(), nil, s); err != nil {
		t.Fatal(err)
	}
	return b
}

// withPool returns the snapshot with another pool of a service.
func withPool(s *core.Snapshot, p *core.Pool) *core.Snapshot {
	next := *s
	next.Pools = s.Pools.With(map[core.ServiceID]*core.Pool{p.Service.ID: p})
	return &next
}

// establish puts a flow into the kernel as its second packet would.
func establish(t testing.TB, b *Balancer, k *core.FlowKey, service core.ServiceID, h core.Handle) {
	t.Helper()
	place(t, b, k, service, h)
	key := flowKey(k, b.view.Load().vips.byAddr[k.Dst])
	var v balanceFlow
	if err := errors.Join(b.maps().Pending.Lookup(&key, &v), b.maps().Pending.Delete(&key), b.maps().Flows.Put(&key, &v)); err != nil {
		t.Fatal(err)
	}
}

// place puts a flow into the kernel as a worker does.
func place(t testing.TB, b *Balancer, k *core.FlowKey, service core.ServiceID, h core.Handle) {
	t.Helper()
	p := b.Offloader()
	if !p.Add(k, service, h, 1, 40) {
		t.Fatal("flow refused")
	}
	p.Flush()
	if got, ok := p.Find(k); !ok || got != h {
		t.Fatalf("flow not found: %v %v", got, ok)
	}
}
