package fastpath

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/nettest/slow"
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// taking returns the snapshot with lists of clients for all services.
func taking(t testing.TB, s *core.Snapshot, allow, deny []netip.Prefix) *core.Snapshot {
	t.Helper()
	next := *s
	var list []*core.Service
	for _, svc := range s.Services.List {
		copied := *svc
		var err error
		if copied.Clients, err = core.NewClients(allow, deny); err != nil {
			t.Fatal(err)
		}
		list = append(list, &copied)
	}
	next.Services = core.NewServiceSet(list)
	return &next
}

// A packet of an unknown flow is dropped whose client the service does not take,
// whoever would place it; established flows pay nothing and go on.
func TestClients(t *testing.T) {
	s := newTestbed(t)
	takes := func(allow, deny []netip.Prefix) state {
		return func(s *testbed) error {
			s.set.to = backends // the services' configuration is to be written again
			return s.setServices(s.gen, taking(t, s.snapshot, allow, deny))
		}
	}
	no4 := takes(nil, prefixes("198.51.100.0/24"))
	no6 := takes(nil, prefixes("2001:db8::/32"))
	s.check(t, []fixture{
		{"denied", no4, tcp4(syn, 0), dropEarly, "kernel_denied", ""},
		{"denied, datagram", no4, udp4(9), dropEarly, "kernel_denied", ""},
		{"denied, mid-flow", no4, tcp4(ack, 9), dropEarly, "kernel_denied", ""},
		{"denied, IPv6", no6, tcp6(syn, 0), dropEarly, "kernel_denied", ""},
		{"others", no6, tcp4(syn, 0), up, "kernel_upcalls", ""},
		{"others, IPv6", no4, udp6(9), up, "kernel_upcalls", ""},
		{"all of IPv6 is none of IPv4", takes(nil, prefixes("::/0")), tcp4(syn, 0), up, "kernel_upcalls", ""},
		{"all of IPv6", takes(nil, prefixes("::/0")), tcp6(syn, 0), dropEarly, "kernel_denied", ""},
		{"all of IPv4 is none of IPv6", takes(nil, prefixes("0.0.0.0/0")), tcp6(syn, 0), up, "kernel_upcalls", ""},
		{"allowed", takes(prefixes("198.51.100.7/32"), nil), tcp4(syn, 0), up, "kernel_upcalls", ""},
		{"others are not", takes(prefixes("198.51.100.8/32"), nil), tcp4(syn, 0), dropEarly, "kernel_denied", ""},
		{"of the other family", takes(prefixes("198.51.100.8/32"), nil), tcp6(syn, 0), dropEarly, "kernel_denied", ""},
		{"the longest allows", takes(prefixes("198.51.100.4/30"), prefixes("198.51.100.0/24")), udp4(9), up, "kernel_upcalls", ""},
		{"the longest denies", takes(prefixes("198.51.100.0/24"), prefixes("198.51.100.4/30")), udp4(9), dropEarly, "kernel_denied", ""},
		{"established", all(established(tunnel4), no4), tcp4(ack, 9), to(tunnel4), "kernel_forwarded", "established"},
		{"pending", all(pending(tunnel4), no4), tcp4(syn, 0), to(tunnel4), "kernel_forwarded", "pending"},
		{"daemon dead, denied", all(no4, dead), tcp4(syn, 0), drop, "kernel_denied", ""},
		{"daemon dead, others", all(no6, dead), tcp4(syn, 0), byTC(tunnel4), "kernel_placed kernel_forwarded", "pending"},
		{"table, denied", all(table(tunnel4), no4, tabled), tcp4(syn, 0), dropEarly, "kernel_denied", ""},
		{"table, others", all(table(tunnel4), no6, tabled), tcp4(syn, 0), to(tunnel4), "kernel_placed kernel_forwarded", "pending"},
		{"overdrawn, denied", all(overdrawn(tunnel6, 0), no4), tcp(client4, metered, ack, 9), dropEarly, "kernel_denied", ""},
		{"nobody is denied any more", takes(nil, nil), tcp4(syn, 0), up, "kernel_upcalls", ""},
	})
	if r := s.Refusals(1); r.Denied < 10 || r.Limited != 0 {
		t.Errorf("%+v of the service", r)
	}
}

// tabled says once more, after another configuration, that the policy has a table.
func tabled(s *testbed) error {
	for id, c := range s.confs {
		c.Table = 1
		if err := s.gen.ServiceConf.Put(uint32(id), &c); err != nil {
			return err
		}
	}
	clear(s.confs)
	return nil
}

// A list stays through another generation of the programs, another one takes its place
// at once, and counts go on.
func TestClientsOfGenerations(t *testing.T) {
	s := testSnapshot()
	b := open(t, s)
	frame := tcp4(syn, 0)
	var was *core.Snapshot = s
	change := func(next *core.Snapshot) {
		t.Helper()
		if err := b.Add(t.Context(), was, next); err != nil {
			t.Fatal(err)
		}
		if err := b.Prune(t.Context(), was, next); err != nil {
			t.Fatal(err)
		}
		was = next
	}
	check := func(when string, want uint32, denied uint64) {
		t.Helper()
		if got, _ := run(t, b.gen.tc, frame, nil); got != want {
			t.Errorf("%s: verdict %d, want %d", when, int32(got), int32(want))
		}
		if r := b.Refusals(1); r.Denied != denied {
			t.Errorf("%s: %d denied, want %d", when, r.Denied, denied)
		}
	}
	check("at the start", pass, 0)
	denies := taking(t, s, nil, prefixes("198.51.100.0/24"))
	gen := b.gen
	change(denies)
	if b.gen != gen {
		t.Error("another list took another generation")
	}
	check("denied", shot, 1)
	more := *denies
	more.VIPs = &core.VIPSet{List: append([]core.VIP{{Addr: netip.MustParseAddr("192.0.2.77"), Number: 99}}, denies.VIPs.List...)}
	change(&more)
	if b.gen == gen {
		t.Fatal("this proves nothing: another VIP took no other generation")
	}
	check("by another generation", shot, 2)
	change(taking(t, &more, nil, prefixes("198.51.100.0/29", "203.0.113.0/24")))
	check("by another list", shot, 3)
	change(taking(t, &more, prefixes("198.51.100.7/32"), nil))
	check("allowed", pass, 3)
	change(s)
	check("without lists", pass, 3)
	if len(b.gen.lists) != 0 || len(b.tries) != 0 {
		t.Errorf("%d lists are left, %d tries are open", len(b.gen.lists), len(b.tries))
	}
}

// randomClients returns a list with n prefixes of 10.0.0.0/8, all of which is taken.
func randomClients(t testing.TB, n int) *core.Clients {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 1))
	allow := prefixes("10.0.0.0/8")
	seen := map[netip.Prefix]bool{allow[0]: true}
	for len(allow) < n {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())}), 16+r.IntN(17)).Masked()
		if !seen[p] {
			seen[p] = true
			allow = append(allow, p)
		}
	}
	c, err := core.NewClients(allow, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A list of 100 000 prefixes is in the kernel within a second.
func TestManyClients(t *testing.T) {
	s := testSnapshot()
	b := open(t, s)
	svc := *s.Services.Get(1)
	svc.Clients = randomClients(t, 100_000)
	next := *s
	list := append([]*core.Service{}, s.Services.List...)
	list[1] = &svc
	next.Services = core.NewServiceSet(list)
	begin := time.Now()
	if err := b.Add(t.Context(), s, &next); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begin)
	t.Logf("100 000 prefixes in %s", took)
	if took > slow.Time(time.Second) {
		t.Errorf("it took %s", took)
	}
}

// The garbage collection ends flows whose client is denied, established or not.
func TestGCOfDenied(t *testing.T) {
	s := newTestbed(t)
	s.timeouts = core.Timeouts{TCP: time.Hour, TCPSyn: time.Hour, TCPFin: time.Hour, TCPHalfClosed: time.Hour, UDP: time.Hour}
	if err := all(established(tunnel4), pending(tunnel4))(s); err != nil {
		t.Fatal(err)
	}
	denied := func(f *Flow) bool { return f.Key.Src == client4.Addr().As16() }
	c, err := s.GC(&core.IdleTimeouts{All: s.timeouts}, nil, denied, func(f *Flow) {
		if f.Expired || !denied(f) {
			t.Errorf("ended: %+v", f)
		}
	})
	if err != nil || c.Flows == 0 {
		t.Fatalf("%d flows are left, %v", c.Flows, err)
	}
	if err := s.Each(func(f *Flow) bool {
		if denied(f) {
			t.Errorf("left: %+v", f)
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
}
