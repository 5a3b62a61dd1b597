package fastpath

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
)

// poolFor makes a pool of n backends 10.0.1.0, 10.0.1.1 … and tells the program
// of it.
func poolFor(t *testing.T, b *Balancer, s *core.Service, n int) *core.Pool {
	t.Helper()
	var backends []core.Backend
	for i := range n {
		backends = append(backends, core.Backend{
			Name: fmt.Sprintf("b%d", i), Weight: 1, Since: time.Unix(1, 0), Addr: netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}),
		})
	}
	p := core.NewPoolBuilder(s).Build(backends)
	for i := range p.Members {
		m := &p.Members[i]
		m.KernelDecap, m.MTU, m.Path = true, 1472, &core.Path{Source: lb4, Link: 1}
	}
	if err := errors.Join(b.setPool(nil, p, port), b.linkNew()); err != nil {
		t.Fatal(err)
	}
	return p
}

// While the daemon is dead the program places new flows as the daemon's lookup
// table would: the two hash alike. Known flows get all their packets.
func TestDeadDaemon(t *testing.T) {
	testLink(t)
	snapshot := testSnapshot()
	b := open(t, snapshot)
	for _, tt := range []struct {
		s   *core.Service
		vip netip.AddrPort
	}{{snapshot.Services.Get(1), vip4}, {snapshot.Services.Get(2), vip6}} {
		pool := poolFor(t, b, tt.s, 5)
		if err := b.StopUpcalls(); err != nil {
			t.Fatal(err)
		}
		for i := range 200 {
			client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i), 7}), uint16(10000+i))
			if tt.vip.Addr().Is6() {
				client = netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i+1)), uint16(10000+i))
			}
			k := key(client, tt.vip, 6)
			want := pool.Members[pool.Lookup.At(k.Hash(tt.s.Seed))].Addr
			for _, flags := range []uint8{syn, ack, finAck} {
				verdict, out := run(t, b.gen.tc, tcp(client, tt.vip, flags, 0), nil)
				if got := keyOf(out).DstAddr().Addr(); verdict != redirect || got != want {
					t.Fatalf("flow %d, flags %#x: verdict %d, to %v, want %v", i, flags, int32(verdict), got, want)
				}
			}
		}
		if err := b.Heartbeat(); err != nil {
			t.Fatal(err)
		}
	}
	placed := 0
	if err := b.Each(func(f *Flow) bool {
		placed++
		if f.Key.DstPort != 443 || f.Idle > time.Minute || f.Rule != ByFallback || f.State() != "closing" {
			t.Errorf("%+v", f)
		}
		return true
	}); err != nil || placed != 400 {
		t.Errorf("%d flows placed: %v", placed, err)
	}
}

// Slots that a policy's table leaves empty fall to the lookup table.
func TestHolesInATable(t *testing.T) {
	testLink(t)
	snapshot := testSnapshot()
	b := open(t, snapshot)
	pool := poolFor(t, b, snapshot.Services.Get(1), 3)
	slots := slices.Clone(pool.Lookup.Slots())
	for i, s := range slots {
		slots[i] = 1
		if s == 0 {
			slots[i] = core.NoBackend
		}
	}
	holes := core.LookupOf(slots, pool.Lookup.Handles())
	if err := b.setLookup(pool.WithTable(holes)); err != nil {
		t.Fatal(err)
	}
	table := make([]uint32, core.LookupSize)
	if err := b.lookups[1].m.Lookup(uint32(0), table); err != nil {
		t.Fatal(err)
	}
	for at, i := range holes.Slots() {
		got := table[at]
		if i == core.NoBackend {
			i = pool.Lookup.Slots()[at]
		}
		if want := uint32(pool.Members[i].Handle); got != want {
			t.Fatalf("slot %d leads to %x, want %x", at, got, want)
		}
	}
}
