package fastpath

import (
	"net/netip"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/flow"
)

func TestPlacer(t *testing.T) {
	s := newScene(t)
	p := s.Placer()
	flows := make([]*core.FlowKey, 2*placeBatch+1)
	for i := range flows {
		flows[i] = key(netip.AddrPortFrom(client6.Addr(), uint16(i)), vip6, core.ProtoUDP)
		if !p.Add(flows[i], 2, tunnel6.handle(), uint64(i), 1000) {
			t.Fatalf("flow %d is refused", i)
		}
	}
	for i, want := range map[int]bool{0: true, 2*placeBatch - 1: true, 2 * placeBatch: false} {
		if _, ok := s.Find(flows[i]); ok != want {
			t.Errorf("before Flush: flow %d is there: %v", i, ok)
		}
	}
	if h, ok := p.Find(flows[2*placeBatch]); !ok || h != tunnel6.handle() {
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

func TestPlacerRefuses(t *testing.T) {
	s := newScene(t)
	p := s.Placer()
	k := key(client4, vip4, core.ProtoTCP)
	for name, ok := range map[string]bool{
		"no VIP":              p.Add(key(client4, nobody4, core.ProtoTCP), 1, tunnel4.handle(), 1, 40),
		"more than 1024":      p.Add(k, 1, 1<<16|MaxBackends, 1, 40),
		"a highest slot":      p.Add(k, 1, 1<<16|0xffff, 1, 40),
		"no VIP, looked up":   found(p.Find(key(client4, nobody4, core.ProtoTCP))),
		"unknown flow":        found(p.Find(k)),
		"unknown, other's":    found(p.Find(key(client4, vip4, core.ProtoUDP))),
		"other VIP's":         found(p.Find(key(client6, vip6, core.ProtoTCP))),
		"nothing of a target": s.SetTarget(Target{Handle: 1<<16 | MaxBackends}) == nil,
	} {
		if ok {
			t.Error(name)
		}
	}
}

func found(_ core.Handle, ok bool) bool { return ok }

// What became of a flow, Find tells of either table, also when the backend is
// gone.
func TestPlacerFind(t *testing.T) {
	s := newScene(t)
	p := s.Placer()
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

func TestPlacerAllocatesNothing(t *testing.T) {
	s := newScene(t)
	p, k := s.Placer(), key(client4, vip4, core.ProtoTCP)
	if n := testing.AllocsPerRun(100, func() {
		for range placeBatch + 1 {
			p.Add(k, 1, tunnel4.handle(), 1, 40)
		}
		p.Flush()
		p.Find(k)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// One flow handed over, its part of a batch included.
func BenchmarkPlacerAdd(b *testing.B) {
	p, keys := benchPlacer(b)
	for i := 0; b.Loop(); i++ {
		p.Add(&keys[i%len(keys)], 1, tunnel4.handle(), 1, 40)
	}
}

func BenchmarkPlacerFind(b *testing.B) {
	p, keys := benchPlacer(b)
	for i := range keys {
		p.Add(&keys[i], 1, tunnel4.handle(), 1, 40)
	}
	for i := 0; b.Loop(); i++ {
		p.Find(&keys[i%len(keys)])
	}
}

func benchPlacer(b *testing.B) (*Placer, []core.FlowKey) {
	name, _ := testLink(b)
	cfg := testConfig(b, name)
	cfg.Flows, cfg.Timeouts = 1<<16, flow.Timeouts{}
	keys := make([]core.FlowKey, 1<<12)
	for i := range keys {
		keys[i] = *key(netip.AddrPortFrom(client4.Addr(), uint16(i)), vip4, core.ProtoTCP)
	}
	b.ReportAllocs()
	return open(b, cfg).Placer(), keys
}
