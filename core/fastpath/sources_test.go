package fastpath

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/nettest/slow"
)

// limiting returns the snapshot with a limit of each source's new flows.
func limiting(s *core.Snapshot, rate, bits4, bits6 int, table bool) *core.Snapshot {
	next := *s
	var list []*core.Service
	pools := map[core.ServiceID]*core.Pool{}
	for _, svc := range s.Services.List {
		copied := *svc
		copied.NewFlows, copied.SourcePrefix4, copied.SourcePrefix6 = rate, bits4, bits6
		list, pools[svc.ID] = append(list, &copied), lookupTo(&copied, nobody, table)
	}
	next.Services, next.Pools = core.NewServiceSet(list), s.Pools.With(pools)
	return &next
}

// Each source may begin a second's flows at once, and then as many a second; what is
// a source is said by its prefix, and of each service for itself.
func TestLimitedSources(t *testing.T) {
	const rate = 20
	s := testSnapshot()
	b := open(t, s)
	was := s
	configure := func(bits4, bits6 int) {
		t.Helper()
		next := limiting(s, rate, bits4, bits6, false)
		if err := b.Add(t.Context(), was, next); err != nil {
			t.Fatal(err)
		}
		was = next
		var k balanceSource
		var v uint64
		for it := b.gen.Sources.Iterate(); it.Next(&k, &v); it = b.gen.Sources.Iterate() {
			if err := b.gen.Sources.Delete(&k); err != nil {
				t.Fatal(err)
			}
		}
	}
	flood := func(dst netip.AddrPort, from ...string) (passed int) {
		t.Helper()
		for range 3 * rate {
			for _, addr := range from {
				switch got, _ := run(t, b.gen.tc, tcp(netip.AddrPortFrom(netip.MustParseAddr(addr), 4711), dst, syn, 0), nil); got {
				case pass:
					passed++
				case shot:
				default:
					t.Fatalf("verdict %d", got)
				}
			}
		}
		return passed
	}
	// a second's flows of each source, and those of the time that has passed
	start := time.Now()
	near := func(name string, got, sources int) {
		t.Helper()
		least, passed := sources*rate, int(time.Since(start)/time.Millisecond)+20
		if most := least + 2*rate*passed/1000 + 1; got < least || got > most {
			t.Errorf("%s: %d flows begin, want %d to %d", name, got, least, most)
		}
	}
	configure(32, 64)
	for _, tt := range []struct {
		name string
		dst  netip.AddrPort
		from []string
		want int // sources
	}{
		{"one client", vip4, []string{"198.51.100.7"}, 1},
		{"another, and itself again", vip4, []string{"198.51.100.7", "198.51.100.8"}, 1},
		{"another service", metered, []string{"198.51.100.7"}, 1},
		{"IPv6", vip6, []string{"2001:db8:1::7"}, 1},
		{"another of its network", vip6, []string{"2001:db8:1::8"}, 0},
		{"another network", vip6, []string{"2001:db8:1:1::8"}, 1},
	} {
		near(tt.name, flood(tt.dst, tt.from...), tt.want)
	}
	configure(24, 128)
	start = time.Now()
	near("a network of IPv4", flood(vip4, "198.51.100.7", "198.51.100.8"), 1)
	near("addresses of IPv6", flood(vip6, "2001:db8:1::7", "2001:db8:1::8"), 2)
	if r := b.Refusals(1); r.Limited == 0 || r.Denied != 0 {
		t.Errorf("%+v of the service", r)
	}
	if err := b.SetTarget(tunnel4.target(1)); err != nil {
		t.Fatal(err)
	}
	k := key(client4, vip4, core.ProtoTCP)
	establish(t, b, k, 1, tunnel4.handle())
	flood(vip4, client4.Addr().String())
	if got, _ := run(t, b.gen.tc, tcp4(ack, 9), nil); got != redirect {
		t.Errorf("an established flow of a limited source: verdict %d", int32(got))
	}
	// The bucket fills again.
	for end := time.Now().Add(slow.Time(5 * time.Second)); ; runtime.Gosched() {
		if flood(vip4, "198.51.100.9"); flood(vip4, "198.51.100.9") > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no other flow begins")
		}
	}
}

// What XDP leaves to TC is counted there alone; what exceeds the limit ends at XDP.
func TestLimitedByXDP(t *testing.T) {
	for _, table := range []bool{false, true} {
		s := testSnapshot()
		s.Settings.Type = core.XDP
		b := open(t, s)
		if err := b.Add(t.Context(), s, limiting(s, 1, 32, 64, table)); err != nil {
			t.Fatal(err)
		}
		if err := b.gen.setMACs([]core.Link{{Name: "lo", Index: inLink}}); err != nil {
			t.Fatal(err)
		}
		frame := tcp4(syn, 0)
		byXDP, _ := run(t, b.gen.xdp, frame, nil)
		if byXDP != xdpPass {
			t.Fatalf("XDP's verdict %d", byXDP)
		}
		want := uint32(pass)
		if table { // XDP would have placed it, had there been a backend: it counted
			want = shot
		}
		if got, _ := run(t, b.gen.tc, frame, nil); got != want {
			t.Errorf("table %v: TC's verdict %d, want %d", table, int32(got), int32(want))
		}
		if byXDP, _ = run(t, b.gen.xdp, frame, nil); byXDP != xdpDrop {
			t.Errorf("table %v: XDP's verdict on another %d", table, byXDP)
		}
	}
}
