package fastpath

import (
	"net/netip"
	"testing"
	"time"
)

var (
	web444  = netip.AddrPortFrom(vip4.Addr(), 444)
	web8000 = netip.AddrPortFrom(vip4.Addr(), 8000)
	web8001 = netip.AddrPortFrom(vip4.Addr(), 8001)
	web8002 = netip.AddrPortFrom(vip4.Addr(), 8002)
	web8003 = netip.AddrPortFrom(vip4.Addr(), 8003)
	web80   = netip.AddrPortFrom(vip4.Addr(), 80)

	web6Zero  = netip.AddrPortFrom(vip6.Addr(), 0)
	web6First = netip.AddrPortFrom(vip6.Addr(), 1)
	web6Last  = netip.AddrPortFrom(vip6.Addr(), 65535)

	nobody4 = netip.MustParseAddrPort("192.0.2.2:443")
	nobody6 = netip.MustParseAddrPort("[2001:db8:1::2]:443")
)

// A packet of no known flow: who places it.
func TestUnknownFlows(t *testing.T) {
	newTestbed(t).check(t, []fixture{
		{"SYN", nil, tcp4(syn, 0), up, "kernel_upcalls", ""},
		{"SYN, IPv6", nil, tcp6(syn, 0), up, "kernel_upcalls", ""},
		{"datagram", nil, udp4(9), up, "kernel_upcalls", ""},
		{"datagram, IPv6", nil, udp6(9), up, "kernel_upcalls", ""},
		{"mid-flow", nil, tcp4(ack, 9), up, "kernel_upcalls", ""},
		{"mid-flow FIN", nil, tcp6(finAck, 0), up, "kernel_upcalls", ""},
		{"mid-flow RST", nil, tcp4(rst, 0), up, "kernel_upcalls", ""},
		{"no backend, but a daemon", lookup(nobody), tcp4(syn, 0), up, "kernel_upcalls", ""},

		{"daemon dead, SYN", dead, tcp4(syn, 0), byTC(tunnel4), "kernel_placed kernel_forwarded", "pending"},
		{"daemon dead, SYN, IPv6", dead, tcp6(syn, 0), byTC(tunnel4), "kernel_placed kernel_forwarded", "pending"},
		{"daemon dead, datagram", dead, udp4(9), byTC(tunnel4), "kernel_placed kernel_forwarded", "pending"},
		{"daemon dead, datagram, IPv6", dead, udp6(9), byTC(tunnel4), "kernel_placed kernel_forwarded", "pending"},
		{"daemon dead, mid-flow", dead, tcp4(ack, 9), byTC(tunnel4), "kernel_placed kernel_forwarded", "pending"},
		{"daemon dead, mid-flow FIN", dead, tcp4(finAck, 0), byTC(tunnel4), "kernel_placed kernel_forwarded", "closing"},
		{"daemon dead, tunnel over IPv6", all(lookup(tunnel6), dead), tcp4(syn, 0), byTC(tunnel6), "kernel_placed kernel_forwarded", "pending"},
		{"daemon dead, direct", all(lookup(direct4), dead), tcp4(syn, 0), byTC(direct4), "kernel_placed kernel_forwarded", "pending"},
		{"daemon dead, MACs unknown", all(lookup(neighbour6), dead), tcp6(syn, 0), byTC(neighbour6), "kernel_placed kernel_forwarded", "pending"},
		{"daemon dead, direct, MACs unknown", all(lookup(directNeighbour6), dead), tcp6(syn, 0), byTC(directNeighbour6), "kernel_placed kernel_forwarded", "pending"},
		{"daemon dead, paused", all(lookup(paused), dead), tcp4(syn, 0), drop, "kernel_paused", ""},
		{"daemon dead, too long", dead, tcp4(ack, mtu4), up, "kernel_too_long", ""},
		{"daemon dead, no backend", all(lookup(nobody), dead), tcp4(syn, 0), up, "kernel_no_backend", ""},
		{"daemon dead, no backend, mid-flow", all(lookup(nobody), dead), tcp6(ack, 9), up, "kernel_no_backend", ""},
		{"daemon dead, backend gone", all(lookup(gone), dead), udp4(9), up, "kernel_no_backend", ""},

		{"daemon silent for a second", silentFor(HeartbeatTimeout / 2), tcp4(syn, 0), up, "kernel_upcalls", ""},
		{"daemon silent for too long", silentFor(2 * HeartbeatTimeout), tcp4(syn, 0), byTC(tunnel4), "kernel_placed kernel_forwarded", "pending"},
		{"daemon with a later clock", silentFor(-time.Second), udp6(9), up, "kernel_upcalls", ""},

		{"table, SYN", table(tunnel4), tcp4(syn, 0), to(tunnel4), "kernel_placed kernel_forwarded", "pending"},
		{"table, SYN, IPv6", table(tunnel6), tcp6(syn, 0), to(tunnel6), "kernel_placed kernel_forwarded", "pending"},
		{"table, datagram", table(tunnel4), udp4(9), to(tunnel4), "kernel_placed kernel_forwarded", "pending"},
		{"table, datagram, IPv6 direct", table(direct6), udp6(9), to(direct6), "kernel_placed kernel_forwarded", "pending"},
		{"table, mid-flow", table(direct4), tcp4(ack, 9), to(direct4), "kernel_placed kernel_forwarded", "pending"},
		{"table, mid-flow FIN", table(tunnel4), tcp4(finAck, 0), to(tunnel4), "kernel_placed kernel_forwarded", "closing"},
		{"table, back by the link it came by", table(hairpin), tcp4(syn, 0), to(hairpin), "kernel_placed kernel_forwarded", "pending"},
		{"table and daemon dead", all(table(tunnel6), dead), tcp4(syn, 0), byTC(tunnel6), "kernel_placed kernel_forwarded", "pending"},
		{"table no more", all(table(tunnel6), lookup(tunnel6)), tcp4(syn, 0), up, "kernel_upcalls", ""},

		{"budget left", unspent, tcp(client4, metered, syn, 0), up, "kernel_upcalls", ""},
		{"budget spent, SYN", spent, tcp(client4, metered, syn, 0), byTC(tunnel4), "kernel_over_budget kernel_placed kernel_forwarded", ""},
		{"budget spent, datagram", spent, udp(client4, metered, 9), byTC(tunnel4), "kernel_over_budget kernel_placed kernel_forwarded", ""},
		{"budget spent, mid-flow", spent, tcp(client4, metered, ack, 9), byTC(tunnel4), "kernel_over_budget kernel_placed kernel_forwarded", ""},
		{"budget spent, direct", all(lookup(direct4), spent), tcp(client4, metered, syn, 0), byTC(direct4), "kernel_over_budget kernel_placed kernel_forwarded", ""},
		{"budget spent, paused", all(lookup(paused), spent), tcp(client4, metered, syn, 0), drop, "kernel_over_budget kernel_paused", ""},
		{"budget spent, no backend", all(lookup(nobody), spent), tcp(client4, metered, syn, 0), up, "kernel_over_budget kernel_no_backend", ""},
		{"budget spent, daemon dead", all(spent, dead), tcp(client4, metered, syn, 0), byTC(tunnel4), "kernel_placed kernel_forwarded", "pending"},
		{"budget spent, SYN again", all(spent, overdrawn(tunnel6, 0)), tcp(client4, metered, syn, 0), byTC(tunnel6), "kernel_over_budget kernel_placed kernel_forwarded", ""},
		{"budget spent, ACK after SYN", all(spent, overdrawn(tunnel6, 0)), tcp(client4, metered, ack, 9), byTC(tunnel6), "kernel_over_budget kernel_placed kernel_forwarded", ""},
		{"budget spent, another datagram", all(spent, overdrawn(direct4, 0)), udp(client4, metered, 9), byTC(direct4), "kernel_over_budget kernel_placed kernel_forwarded", ""},
		{"budget spent, SYN again, backend gone", all(spent, overdrawn(gone, 0)), tcp(client4, metered, syn, 0), byTC(tunnel4), "kernel_over_budget kernel_placed kernel_forwarded", ""},
		{"budget left again, SYN again", all(unspent, overdrawn(tunnel6, time.Second)), tcp(client4, metered, syn, 0), byTC(tunnel6), "kernel_placed kernel_forwarded", "pending"},
		{"budget left again, ACK after SYN", all(unspent, overdrawn(tunnel6, time.Second)), tcp(client4, metered, ack, 9), byTC(tunnel6), "kernel_placed kernel_forwarded", "pending"},
		{"budget left again, FIN", all(unspent, overdrawn(tunnel6, time.Second)), tcp(client4, metered, finAck, 0), byTC(tunnel6), "kernel_placed kernel_forwarded", "closing"},
		{"budget left again, another datagram", all(unspent, overdrawn(direct4, time.Second)), udp(client4, metered, 9), byTC(direct4), "kernel_placed kernel_forwarded", "pending"},
		{"budget left again, SYN again, backend gone", all(unspent, overdrawn(gone, time.Second)), tcp(client4, metered, syn, 0), up, "kernel_upcalls", ""},
		{"budget left again, SYN much later", all(unspent, overdrawn(tunnel6, 2*overdraftTimeout)), tcp(client4, metered, syn, 0), up, "kernel_upcalls", ""},
		{"placed beyond the budget, daemon dead", all(overdrawn(tunnel6, 0), dead), tcp(client4, metered, syn, 0), byTC(tunnel4), "kernel_placed kernel_forwarded", "pending"},
		{"another service's budget spent", spent, tcp4(syn, 0), up, "kernel_upcalls", ""},
	})
}

// A connection that was opened beyond the budget stays where its first SYN went,
// whatever the lookup table says by then, and gets its entry once there is room.
// A flood of ACKs makes no entries.
func TestBeyondTheBudget(t *testing.T) {
	s := newTestbed(t)
	step := func(given state, flags uint8, want backend, left string) {
		t.Helper()
		if err := given(s); err != nil {
			t.Fatal(err)
		}
		in := tcp(client4, metered, flags, 0)
		_, verdict, out := s.show(t, in, true, super{})
		if verdict != redirect || keyOf(out).DstAddr().Addr() != want.target(0).Addr {
			t.Errorf("flags %#x: verdict %d, to %v", flags, int32(verdict), keyOf(out).DstAddr())
		}
		e, ok := s.Find(keyOf(in))
		if ok != (left != "") || ok && e.State() != left {
			t.Errorf("flags %#x: left %q", flags, e.State())
		}
	}
	if err := s.reset(); err != nil {
		t.Fatal(err)
	}
	step(all(lookup(tunnel4), spent), ack, tunnel4, "")
	step(all(lookup(tunnel6), spent), syn, tunnel6, "")
	step(all(lookup(tunnel4), spent), syn, tunnel6, "")
	step(unspent, syn, tunnel6, "pending")
	step(spent, ack, tunnel6, "established")
}

// What the policy's table places and XDP leaves to TC.
func TestPlacedByTC(t *testing.T) {
	newTestbed(t).check(t, []fixture{
		{"table, MACs unknown", table(neighbour4), tcp4(syn, 0), byTC(neighbour4), "kernel_placed kernel_forwarded", "pending"},
		{"table, paused", table(paused), tcp4(syn, 0), drop, "kernel_paused", ""},
		{"table, too long", table(tunnel4), tcp4(ack, mtu4), up, "kernel_too_long", ""},
		{"table, no backend", table(nobody), tcp4(syn, 0), up, "kernel_no_backend", ""},
		{"table, no backend, mid-flow", table(nobody), tcp6(ack, 9), up, "kernel_no_backend", ""},
		{"table, backend gone", table(gone), udp4(9), up, "kernel_no_backend", ""},
	})
}

// What is a service, asked of the policy's table: the program forwards it then.
func TestServices(t *testing.T) {
	newTestbed(t).check(t, []fixture{
		{"first of a range", table(tunnel4), tcp4(syn, 0), to(tunnel4), "kernel_placed kernel_forwarded", "pending"},
		{"last of a range", table(tunnel4), tcp(client4, web444, syn, 0), to(tunnel4), "kernel_placed kernel_forwarded", "pending"},
		{"middle of a second range", table(tunnel4), tcp(client4, web8001, syn, 0), to(tunnel4), "kernel_placed kernel_forwarded", "pending"},
		{"last of a second range", table(tunnel4), udp(client4, web8002, 9), to(tunnel4), "kernel_placed kernel_forwarded", "pending"},
		{"behind a range", table(tunnel4), tcp(client4, web8003, syn, 0), up, "", ""},
		{"before a range", table(tunnel4), udp(client4, web80, 9), up, "", ""},
		{"another service of the VIP", table(tunnel4), udp(client4, metered, 9), to(tunnel4), "kernel_placed kernel_forwarded", "pending"},
		{"all ports, the last", table(tunnel4), tcp(client6, web6Last, syn, 0), to(tunnel4), "kernel_placed kernel_forwarded", "pending"},
		{"all ports, the first", table(tunnel4), udp(client6, web6First, 9), to(tunnel4), "kernel_placed kernel_forwarded", "pending"},
		{"all ports of TCP", table(tunnel4), tcp(client4, other, syn, 0), to(tunnel4), "kernel_placed kernel_forwarded", "pending"},
		{"UDP where TCP alone is balanced", table(tunnel4), udp(client4, other, 9), up, "", ""},
		{"UDP where TCP alone is balanced, daemon dead", all(table(tunnel4), dead), udp(client4, other, 9), up, "", ""},
		{"no port of a service, daemon dead", dead, tcp(client4, web80, syn, 0), up, "", ""},
		{"port 0", table(tunnel4), tcp(client4, netip.AddrPortFrom(vip4.Addr(), 0), syn, 0), up, "", ""},
		{"port 0, all ports", table(tunnel4), tcp(client6, web6Zero, syn, 0), up, "", ""},
		{"no VIP", table(tunnel4), tcp(client4, nobody4, syn, 0), up, "", ""},
		{"no VIP, IPv6", table(tunnel4), udp(client6, nobody6, 9), up, "", ""},
		{"no VIP, daemon dead", dead, tcp(client4, nobody4, syn, 0), up, "", ""},
		{"the other direction", established(tunnel4), tcp(vip4, client4, ack, 9), up, "", ""},
		{"another client", established(tunnel4), tcp(netip.MustParseAddrPort("198.51.100.8:40000"), vip4, ack, 9), up, "kernel_upcalls", ""},
		{"another port of the client", established(tunnel4), udp(netip.MustParseAddrPort("[2001:db8::7]:40001"), vip6, 9), up, "kernel_upcalls", ""},
		{"another port of the VIP", established(tunnel4), tcp(client4, web8000, ack, 9), up, "kernel_upcalls", ""},
		{"a flow to a port that is no service's any more", establishedTo(web80), tcp(client4, web80, ack, 9), to(tunnel4), "kernel_forwarded", "established"},
	})
}

// establishedTo makes the TCP flow from client4 to a port of vip4 known.
func establishedTo(dst netip.AddrPort) state {
	return func(s *testbed) error {
		k := flowKey(key(client4, dst, 6), s.gen.vips.byAddr[dst.Addr().As16()])
		v := balanceFlow{Handle: uint32(tunnel4.handle()), Service: 1, Seen: s.tick()}
		return s.maps().Flows.Put(&k, &v)
	}
}

// The sums tell by what the program placed flows, each flow once.
func TestPlacedSums(t *testing.T) {
	s := newTestbed(t)
	for _, tt := range []struct {
		name  string
		given state
		rule  Rule
		in    []byte
		want  Sum
	}{
		{"table", table(tunnel4), ByTable, tcp4(syn, 0), Sum{2, 80, 1, 0}},
		{"daemon dead", dead, ByFallback, udp4(12), Sum{2, 80, 0, 1}},
		{"table and daemon dead", all(table(tunnel4), dead), ByFallback, udp6(12), Sum{2, 120, 0, 1}},
		{"budget spent", spent, ByPolicy, tcp(client4, metered, syn, 0), Sum{2, 80, 0, 0}},
		{"known", pending(tunnel4), ByPolicy, tcp4(syn, 0), Sum{2, 80, 0, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := s.reset(); err != nil {
				t.Fatal(err)
			}
			if err := tt.given(s); err != nil {
				t.Fatal(err)
			}
			k := keyOf(tt.in)
			was := s.Total(tunnel4.handle())
			for range 2 {
				s.show(t, tt.in, true, super{})
			}
			is := s.Total(tunnel4.handle())
			if got := (Sum{is.Packets - was.Packets, is.Bytes - was.Bytes, is.ByTable - was.ByTable, is.ByFallback - was.ByFallback}); got != tt.want {
				t.Errorf("sum %+v, want %+v", got, tt.want)
			}
			sums, err := s.Sums()
			if err != nil {
				t.Fatal(err)
			}
			for b := range backends {
				if got, want := sums.Of(b.handle()), s.Total(b.handle()); got != want || s.sumsOneByOne(s.usedSlots()).Of(b.handle()) != want {
					t.Errorf("backend %v among all has the sum %+v, want %+v", b, got, want)
				}
			}
			if e, _ := s.Find(k); e.Rule != tt.rule {
				t.Errorf("the flow's rule is %v", e.Rule)
			}
		})
	}
}
