package fastpath

import (
	"net/netip"
	"testing"

	"github.com/caplance/caplance/core"
)

func TestOffloader(t *testing.T) {
	s := newTestbed(t)
	p := s.Offloader()
	flows := make([]*core.FlowKey, 2*offloadBatch+1)
	for i := range flows {
		flows[i] = key(netip.AddrPortFrom(client6.Addr(), uint16(i)), vip6, core.ProtoUDP)
		if !p.Add(flows[i], 2, tunnel6.handle(), uint64(i), 1000) {
			t.Fatalf("flow %d is refused", i)
		}
	}
	for i, want := range map[int]bool{0: true, 2*offloadBatch - 1: true, 2 * offloadBatch: false} {
		if _, ok := s.Find(flows[i]); ok != want {
			t.Errorf("before Flush: flow %d is there: %v", i, ok)
		}
	}
	if h, ok := p.Find(flows[2*offloadBatch]); !ok || h != tunnel6.handle() {
		t.Errorf("what was added last is not found: %v", h)
	}
	p.Flush()
	for i, k := range flows {
		f, ok := s.Find(k)
		if !ok || f.Key != *k || f.Service != 2 || f.Backend != tunnel6.handle() || f.Packets != uint64(i) || f.Bytes != 1000 || f.State() != "pending" || f.Rule != ByPolicy {
			t.Errorf("flow %d: %v %+v", i, ok, f)
		}
	}
}

func TestOffloaderRefuses(t *testing.T) {
	s := newTestbed(t)
	p := s.Offloader()
	k := key(client4, vip4, core.ProtoTCP)
	for name, ok := range map[string]bool{
		"no VIP":              p.Add(key(client4, nobody4, core.ProtoTCP), 1, tunnel4.handle(), 1, 40),
		"more than 1024":      p.Add(k, 1, core.NewHandle(1024, 1), 1, 40),
		"a highest slot":      p.Add(k, 1, core.NewHandle(core.MaxSlots-1, 1), 1, 40),
		"no VIP, looked up":   found(p.Find(key(client4, nobody4, core.ProtoTCP))),
		"unknown flow":        found(p.Find(k)),
		"unknown, other's":    found(p.Find(key(client4, vip4, core.ProtoUDP))),
		"other VIP's":         found(p.Find(key(client6, vip6, core.ProtoTCP))),
		"nothing of a target": s.SetTarget(Target{Handle: core.NewHandle(1024, 1)}) == nil,
	} {
		if ok {
			t.Error(name)
		}
	}
}

func found(_ core.Handle, ok bool) bool { return ok }

// What became of a flow, Find tells of either table, also when the backend is
// gone.
func TestOffloaderFind(t *testing.T) {
	s := newTestbed(t)
	p := s.Offloader()
	for name, given := range map[string]state{"pending": pending(direct6), "established": established(direct6), "closed": closed(direct6)} {
		if err := s.reset(); err != nil {
			t.Fatal(err)
		}
		if err := given(s); err != nil {
			t.Fatal(err)
		}
		if h, ok := p.Find(key(client6, vip6, core.ProtoTCP)); !ok || h != direct6.handle() {
			t.Errorf("%s: %v %v", name, h, ok)
		}
	}
	if err := established(gone)(s); err != nil {
		t.Fatal(err)
	}
	if h, ok := p.Find(key(client6, vip6, core.ProtoTCP)); !ok || h != gone.handle() {
		t.Errorf("gone: %v %v", h, ok)
	}
}

func TestOffloaderAllocatesNothing(t *testing.T) {
	s := newTestbed(t)
	p, k := s.Offloader(), key(client4, vip4, core.ProtoTCP)
	if n := testing.AllocsPerRun(100, func() {
		for range offloadBatch + 1 {
			p.Add(k, 1, tunnel4.handle(), 1, 40)
		}
		p.Flush()
		p.Find(k)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// One flow offloaded, its part of a batch included.
func BenchmarkOffloaderAdd(b *testing.B) {
	p, keys := benchOffloader(b)
	for i := 0; b.Loop(); i++ {
		p.Add(&keys[i%len(keys)], 1, tunnel4.handle(), 1, 40)
	}
}

func BenchmarkOffloaderFind(b *testing.B) {
	p, keys := benchOffloader(b)
	for i := range keys {
		p.Add(&keys[i], 1, tunnel4.handle(), 1, 40)
	}
	for i := 0; b.Loop(); i++ {
		p.Find(&keys[i%len(keys)])
	}
}

func benchOffloader(b *testing.B) (*Offloader, []core.FlowKey) {
	testLink(b)
	snapshot := testSnapshot()
	snapshot.Settings.Flows = 1 << 16
	keys := make([]core.FlowKey, 1<<12)
	for i := range keys {
		keys[i] = *key(netip.AddrPortFrom(client4.Addr(), uint16(i)), vip4, core.ProtoTCP)
	}
	b.ReportAllocs()
	return open(b, snapshot).Offloader(), keys
}
