package fastpath

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
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
	p := core.NewPoolBuilder(s).Build(backends, nil)
	for _, m := range p.Members {
		if err := b.SetTarget(Target{Service: s.Index, Handle: m.Handle, Addr: m.Addr, Source: lb4, Link: 1, MTU: 1472, Port: 1337}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.SetLookup(p); err != nil {
		t.Fatal(err)
	}
	return p
}

// While the daemon is dead the program places new flows as the daemon's lookup
// table would: the two hash alike. Known flows get all their packets.
func TestDeadDaemon(t *testing.T) {
	name, _ := testLink(t)
	b := open(t, testConfig(t, name))
	for _, tt := range []struct {
		s   *core.Service
		vip netip.AddrPort
	}{{b.cfg.Services[1], vip4}, {b.cfg.Services[2], vip6}} {
		pool := poolFor(t, b, tt.s, 5)
		if err := b.Retire(); err != nil {
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
				verdict, out := run(t, b.objs.TC, tcp(client, tt.vip, flags, 0), nil)
				if got := keyOf(out).DstAddr().Addr(); verdict != redirect || got != want {
					t.Fatalf("flow %d, flags %#x: verdict %d, to %v, want %v", i, flags, int32(verdict), got, want)
				}
			}
		}
		if err := b.Beat(); err != nil {
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

// A successor finds the flows of a killed process and its program at work,
// takes both over, and in the end nothing is left.
func TestSuccession(t *testing.T) {
	name, index := testLink(t)
	cfg := testConfig(t, name)
	b, err := OpenBalancer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	target := tunnel4.target(index)
	target.Service = 1
	if err := errors.Join(b.Attach(), b.SetTarget(target)); err != nil {
		t.Fatal(err)
	}
	k := key(client4, vip4, 6)
	establish(t, b, k, 1, tunnel4.handle())
	next, err := OpenBalancer(cfg) // b was killed: it closes nothing
	if err != nil {
		t.Fatal(err)
	}
	if !next.Inherited {
		t.Error("nothing inherited")
	}
	if f, ok := next.Find(k); !ok || !f.Established || f.Backend != tunnel4.handle() {
		t.Error("the flow is lost")
	}
	if err := next.Attach(); err != nil {
		t.Fatal(err)
	}
	if verdict, _ := run(t, next.objs.TC, tcp4(ack, 0), nil); verdict != redirect {
		t.Errorf("a flow is not gone on with: verdict %d", int32(verdict))
	}
	if err := next.Keep(func(_ uint16, h core.Handle) bool { return h != tunnel4.handle() }); err != nil {
		t.Fatal(err)
	}
	if verdict, _ := run(t, next.objs.TC, tcp4(ack, 0), nil); verdict != pass {
		t.Errorf("a target that did not come back is used: verdict %d", int32(verdict))
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	// Another size cannot be adopted: it starts afresh.
	if next, err = OpenBalancer(cfg); err != nil || next.Inherited {
		t.Fatalf("after a clean end: inherited %v, %v", next.Inherited, err)
	}
	cfg.Flows *= 2
	other, err := OpenBalancer(cfg)
	if err != nil || other.Inherited {
		t.Fatalf("another size: inherited %v, %v", other.Inherited, err)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
}

// What a version with another layout of the maps left at work is replaced.
func TestAnotherLayout(t *testing.T) {
	name, _ := testLink(t)
	cfg := testConfig(t, name)
	b, err := OpenBalancer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(cfg.StateDir, "bpf", "v0")
	if err := errors.Join(os.Mkdir(old, 0o700), b.objs.Heartbeat.Pin(filepath.Join(old, "flows"))); err != nil {
		t.Fatal(err)
	}
	if b.Inherited || b.Replaced {
		t.Error("replaced before it is attached")
	}
	if err := b.Attach(); err != nil || !b.Replaced {
		t.Errorf("replaced %v, %v", b.Replaced, err)
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old one is still there: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// Slots that a policy's table leaves empty fall to the lookup table.
func TestHolesInATable(t *testing.T) {
	name, _ := testLink(t)
	b := open(t, testConfig(t, name))
	s := b.cfg.Services[1]
	pool := poolFor(t, b, s, 3)
	holes := pool.Lookup.Remap(func(i uint16) uint16 {
		if i == 0 {
			return core.NoBackend
		}
		return 1
	})
	if err := b.SetLookup(pool.WithTable(holes)); err != nil {
		t.Fatal(err)
	}
	for at, i := range holes.Slots() {
		var slot uint32
		if err := b.objs.Lookup.Lookup(uint32(s.Index)*core.LookupSize+uint32(at), &slot); err != nil {
			t.Fatal(err)
		}
		if i == core.NoBackend {
			i = pool.Lookup.Slots()[at]
		}
		if want := uint32(pool.Members[i].Handle.Slot()) + 1; slot != want {
			t.Fatalf("slot %d leads to %d, want %d", at, slot, want)
		}
	}
}
