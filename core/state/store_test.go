package state

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/netmon"
)

func service(name string) *core.Service {
	return &core.Service{
		Name: name, VIP: netip.MustParseAddr("192.0.2.1"), Protos: []uint8{core.ProtoTCP}, Ports: []core.PortRange{{First: 80, Last: 80}}, Seed: 1,
	}
}

func backend(name string, services ...string) core.Backend {
	return core.Backend{Name: name, Addr: netip.MustParseAddr("10.0.0.1"), Weight: 1, Since: time.Unix(1, 0), Services: services}
}

// update makes one change and returns the snapshot after it.
func update(t *testing.T, s *Store, fn func(*Draft) error) *core.Snapshot {
	t.Helper()
	if _, err := s.Update("test", fn); err != nil {
		t.Fatal(err)
	}
	return s.Snapshot()
}

func newStore(t testing.TB, sources ...string) *Store {
	return New(slog.New(slog.NewTextHandler(t.Output(), nil)), sources...)
}

func services(list ...*core.Service) func(*Draft) error {
	return func(d *Draft) error { return d.SetServices(list) }
}

func backends(list ...core.Backend) func(*Draft) error {
	return func(d *Draft) error { d.SetBackends(list); return nil }
}

// A pool knows that it had an eligible backend, whatever became of it and of the
// service's configuration; and the state when backends have had their time.
func TestServed(t *testing.T) {
	s := newStore(t)
	pool := func(snap *core.Snapshot) *core.Pool { return snap.Pools.Of(snap.Services.Named("a").ID) }
	if p := pool(update(t, s, services(service("a")))); p.Served || !p.Deserted() {
		t.Errorf("at the start: served %v, deserted %v", p.Served, p.Deserted())
	}
	if p := pool(update(t, s, backends(backend("x")))); !p.Served || p.Deserted() {
		t.Errorf("with a backend: served %v, deserted %v", p.Served, p.Deserted())
	}
	lost := backend("x")
	lost.State = core.Lost
	if p := pool(update(t, s, backends(lost))); !p.Served || p.Deserted() {
		t.Errorf("while it is lost: served %v, deserted %v", p.Served, p.Deserted())
	}
	seeded := service("a")
	seeded.Seed = 2
	update(t, s, services(seeded))
	snap := update(t, s, backends())
	if p := pool(snap); !p.Served || !p.Deserted() || snap.Settled {
		t.Errorf("once it is gone: served %v, deserted %v, settled %v", p.Served, p.Deserted(), snap.Settled)
	}
	if !update(t, s, func(d *Draft) error { d.Settle(); return nil }).Settled {
		t.Error("not settled")
	}
}

// A service keeps its number and its members whatever its place in the file, and
// what did not change is shared.
func TestOrderMeansNothing(t *testing.T) {
	s := newStore(t)
	first := update(t, s, services(service("a"), service("b"), service("c")))
	first = update(t, s, backends(backend("x"), backend("y", "b")))
	b := first.Pools.Of(first.Services.Named("b").ID)
	next := update(t, s, services(service("c"), service("d"), service("b")))
	if next.Pools.Of(next.Services.Named("b").ID) != b {
		t.Error("b's pool changed")
	}
	if a := next.Services.Named("a"); a == nil || !a.Leaving {
		t.Errorf("a removed service is %+v", a)
	}
	if next.Services.Named("d").ID == first.Services.Named("a").ID {
		t.Error("a new service has the number of one that is leaving")
	}
	back := update(t, s, services(service("a"), service("b"), service("c")))
	if a := back.Services.Named("a"); a.Leaving || a.ID != first.Services.Named("a").ID ||
		back.Pools.Of(a.ID).Members[0].Handle != first.Pools.Of(a.ID).Members[0].Handle {
		t.Error("a service that came back lost its flows")
	}
}

// A change of one backend builds the pools of its services, and no others.
func TestOneBackendCostsItsServices(t *testing.T) {
	s := newStore(t)
	update(t, s, services(service("a"), service("b")))
	was := update(t, s, backends(backend("x", "a"), backend("y", "b")))
	paused := backend("y", "b")
	paused.State = core.Paused
	now := update(t, s, backends(backend("x", "a"), paused))
	a, b := now.Services.Named("a").ID, now.Services.Named("b").ID
	if now.Pools.Of(a) != was.Pools.Of(a) || now.Pools.Of(b) == was.Pools.Of(b) {
		t.Error("the wrong pools were built anew")
	}
	if now.Pools.Of(b).Members[0].Handle != was.Pools.Of(b).Members[0].Handle {
		t.Error("a state change is another membership")
	}
	if same := update(t, s, backends(backend("x", "a"), paused)); same != now {
		t.Error("nothing changed, and there is another revision")
	}
}

// A change that fails changes nothing.
func TestUpdateIsAllOrNothing(t *testing.T) {
	s := newStore(t)
	was := update(t, s, services(service("a")))
	revision, err := s.Update("test", func(d *Draft) error {
		d.SetBackends([]core.Backend{backend("x")})
		return fmt.Errorf("no")
	})
	if err == nil || revision != was.Revision || s.Snapshot() != was {
		t.Errorf("revision %d after %v", revision, err)
	}
	if now := update(t, s, func(*Draft) error { return nil }); now != was {
		t.Error("the failed change came later")
	}
}

// saved goes through its encoding.
func saved(t *testing.T, s *Store) *Saved {
	t.Helper()
	data, err := s.Save(s.Snapshot()).Encode()
	if err != nil {
		t.Fatal(err)
	}
	out, err := Decode(append(data, 0, 0, 0)) // as a map pads it
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A successor's backends get their predecessors' handles back, those from
// another address do not; services keep their numbers by name, whatever was
// added, removed or reordered.
func TestSuccessor(t *testing.T) {
	first := newStore(t)
	update(t, first, services(service("gone"), service("web"), service("dns")))
	was := update(t, first, backends(backend("a"), backend("b"), backend("c")))

	next := newStore(t, "predecessor")
	next.Restore(saved(t, first))
	update(t, next, services(service("new"), service("dns"), service("web")))
	next.DropUnknown()
	moved := backend("b")
	moved.Addr, moved.Since = netip.MustParseAddr("10.0.0.99"), time.Unix(7, 0)
	again := backend("a")
	again.Since = time.Unix(8, 0)
	now := update(t, next, backends(again, moved))
	web := now.Services.Named("web").ID
	if web != was.Services.Named("web").ID || now.Services.Named("dns").ID != was.Services.Named("dns").ID {
		t.Error("services have other numbers")
	}
	if now.VIPs.List[0].Number != was.VIPs.List[0].Number {
		t.Error("the VIP has another number")
	}
	old, pool := was.Pools.Of(web), now.Pools.Of(web)
	for _, m := range pool.Members {
		i, ok := old.Find(m.Handle)
		if m.Name == "a" && (!ok || old.Members[i].Name != "a") || m.Name == "b" && ok {
			t.Errorf("%s has the handle %#x", m.Name, m.Handle)
		}
	}
	if now.Complete || next.Returned() || pool.MidFlow == nil {
		t.Error("complete though a backend is missing")
	}
	if again := saved(t, next); len(again.Services["web"].Members) != 3 {
		t.Errorf("a successor's successor would know %+v", again.Services["web"])
	}
	third := backend("c")
	third.Since = time.Unix(9, 0)
	update(t, next, backends(again, moved, third))
	if !next.Returned() {
		t.Error("all are back")
	}
	done := update(t, next, func(d *Draft) error { d.Done("predecessor"); return nil })
	if !done.Complete {
		t.Error("not complete")
	}

	// Until a lookup table knows all of them, their predecessor's is asked.
	lookup := func(candidates []core.Candidate) *core.Pool {
		l := core.NewLookup(candidates)
		return update(t, next, func(d *Draft) error { d.SetLookup(web, l); return nil }).Pools.Of(web)
	}
	late := done.Pools.Of(web)
	if late.MidFlow == nil {
		t.Error("the predecessor's table is gone before there is another")
	}
	if now := lookup(late.Candidates()[:2]); now.MidFlow == nil {
		t.Error("it is gone before there is one that knows all")
	}
	touched := backend("a")
	touched.Since, touched.Weight = time.Unix(8, 0), 3
	if now := update(t, next, backends(touched, moved, third)).Pools.Of(web); now.MidFlow == nil {
		t.Error("it is gone because a backend has changed")
	}
	if now := lookup(late.Candidates()); now.MidFlow != nil {
		t.Error("it is asked though there is another")
	}
	if now := update(t, next, backends(again, moved, third)).Pools.Of(web); now.MidFlow != nil {
		t.Error("it is back")
	}
}

// Backends that do not come back are given up, and their handles with them.
func TestPredecessorGivenUp(t *testing.T) {
	first := newStore(t)
	update(t, first, services(service("web")))
	was := update(t, first, backends(backend("a"), backend("b")))
	next := newStore(t, "predecessor")
	next.Restore(saved(t, first))
	update(t, next, services(service("web")))
	update(t, next, func(d *Draft) error { d.Done("predecessor"); return nil })
	late := backend("a")
	late.Since = time.Unix(99, 0)
	now := update(t, next, backends(late))
	if _, ok := was.Pools.Of(0).Find(now.Pools.Of(0).Members[0].Handle); ok {
		t.Error("a handle that was given up came back")
	}
}

// A removed service goes when it is forgotten; with resets its members go at
// once.
func TestRemovedServices(t *testing.T) {
	reset := service("reset")
	reset.Removed = core.ResetRemoved
	s := newStore(t)
	update(t, s, services(service("drain"), reset, service("stays")))
	update(t, s, backends(backend("a")))
	now := update(t, s, services(service("stays")))
	if n := len(now.Pools.Of(now.Services.Named("drain").ID).Members); n != 1 {
		t.Errorf("a draining service has %d members", n)
	}
	if n := len(now.Pools.Of(now.Services.Named("reset").ID).Members); n != 0 {
		t.Errorf("a service whose flows are reset has %d members", n)
	}
	id := now.Services.Named("drain").ID
	now = update(t, s, func(d *Draft) error { d.Forget(id); return nil })
	if now.Services.Named("drain") != nil || now.Pools.Of(id) != nil {
		t.Error("a forgotten service is there")
	}
}

// A backend whose agent has not set up a VIP gets no flows for it.
func TestVIPNotSetUp(t *testing.T) {
	s := newStore(t)
	update(t, s, services(service("web")))
	b := backend("a")
	b.VIPs = []netip.Addr{}
	if p := update(t, s, backends(b)).Pools.Of(0); p.Eligible != 0 {
		t.Error("flows go to a backend without the VIP")
	}
	b.VIPs = []netip.Addr{service("web").VIP}
	if p := update(t, s, backends(b)).Pools.Of(0); p.Eligible != 1 {
		t.Error("no flows go to a backend with the VIP")
	}
}

// The machine is reached at a VIP by what no service claims as the settings say: by
// default where it had the address before.
func TestHostAccess(t *testing.T) {
	s := newStore(t)
	ours := map[int]bool{}
	s.Ours = func(link int, _ netip.Addr) bool { return ours[link] }
	vip := service("a").VIP
	both := &netmon.Network{Addrs: []netmon.Addr{{Link: 1, Prefix: netip.PrefixFrom(vip, 32)}, {Link: 2, Prefix: netip.PrefixFrom(vip, 32)}}}
	has := &netmon.Network{Links: []netmon.Link{{Index: 2, Name: "eth0"}}, Addrs: []netmon.Addr{{Link: 2, Prefix: netip.PrefixFrom(vip, 32)}}}
	update(t, s, services(service("a")))
	for _, tt := range []struct {
		name    string
		access  core.HostAccess
		network *netmon.Network
		ours    bool
		want    bool
	}{
		{"not there yet", core.HostOwn, &netmon.Network{}, false, false},
		{"by us", core.HostOwn, has, true, false},
		{"before", core.HostOwn, has, false, true},
		{"never", core.HostNever, has, false, false},
		{"always", core.HostAlways, has, true, true},
		{"before, on another link", core.HostOwn, both, true, true},
		{"by us again", core.HostOwn, has, true, false},
	} {
		ours[2] = tt.ours
		snap := update(t, s, func(d *Draft) error {
			d.SetSettings(core.Settings{HostAccess: tt.access})
			network := *tt.network
			d.SetNetwork(&network, nil)
			return nil
		})
		if got := snap.VIPs.List[0].Host; got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// Lists of clients that say the same are one, also of services that are new: the
// kernel has each once.
func TestListsOfClientsAreShared(t *testing.T) {
	s := newStore(t)
	list := func(deny string) *core.Clients {
		c, err := core.NewClients(nil, []netip.Prefix{netip.MustParsePrefix(deny)})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	with := func(name string, c *core.Clients) *core.Service {
		svc := service(name)
		svc.Clients = c
		return svc
	}
	one := update(t, s, services(with("a", list("10.0.0.0/8")), service("b"))).Services
	again := list("10.0.0.0/8")
	changed := with("a", again)
	changed.Seed = 7
	two := update(t, s, services(changed, with("b", again), with("c", list("11.0.0.0/8")))).Services
	a := one.Named("a").Clients
	if two.Named("a").Clients != a || two.Named("b").Clients != a || two.Named("c").Clients == a || two.Named("a") == one.Named("a") {
		t.Errorf("%p became %p, %p and %p", a, two.Named("a").Clients, two.Named("b").Clients, two.Named("c").Clients)
	}
	three := update(t, s, services(with("a", list("12.0.0.0/8")), service("b"))).Services
	if three.Named("a").Clients == a || three.Named("b").Clients != nil {
		t.Error("another list did not take its place")
	}
	if four := update(t, s, services(with("a", list("12.0.0.0/8")), service("b"))).Services; four != three {
		t.Error("the same list is a change")
	}
}
