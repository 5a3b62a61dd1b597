package datapath

import (
	"net/netip"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/packet/packettest"
)

// configure publishes the services with a change to each.
func (r *rig) configure(change func(*core.Service)) {
	var list []*core.Service
	for _, s := range r.snap.Services.List {
		next := *s
		change(&next)
		list = append(list, &next)
	}
	r.change(func(s *core.Snapshot) { s.Services = core.NewServiceSet(list) })
}

// denying returns a list of clients that denies those of a network.
func denying(t testing.TB, network string) *core.Clients {
	c, err := core.NewClients(nil, []netip.Prefix{netip.MustParsePrefix(network)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// New flows of clients that a service does not take are dropped and counted, those that
// there are go on until the sweep comes by.
func TestDeniedClients(t *testing.T) {
	r := newRig(t, 1)
	r.setBackends(2, nil, nil)
	was := r.backend(syn(1))
	r.backend(ack(1))
	list := denying(t, "198.51.100.0/24")
	r.configure(func(s *core.Service) { s.Clients = list })
	if got := r.backend(ack(1)); got != was {
		t.Errorf("an established flow went to %v, not %v", got, was)
	}
	elsewhere := netip.MustParseAddrPort("203.0.113.1:4711")
	for _, b := range [][]byte{syn(2), ack(3), packettest.UDP(client(4), vip4, []byte("x"))} {
		if out := r.give(0, b); len(out) != 0 {
			t.Error("a denied client's packet left")
		}
	}
	if denied := r.counters.Service(r.services[0]).Denied; denied != 3 || r.count(Denied) != 3 {
		t.Errorf("%d and %d denied", denied, r.count(Denied))
	}
	r.backend(packettest.TCP(elsewhere, vip4, packet.SYN, nil))
	w := r.workers[0]
	for range 3 {
		w.Tick(time.Now().Add(sweepTime))
	}
	if w.table.Find(keyOf(1), w.Hash(keyOf(1))) != nil {
		t.Error("the flow of a denied client outlived the sweep")
	}
	if w.table.Len() != 1 {
		t.Errorf("%d flows are left, want the other's", w.table.Len())
	}
	if out := r.give(0, ack(1)); len(out) != 0 {
		t.Error("its next packet left")
	}
	r.configure(func(s *core.Service) { s.Clients = nil })
	r.backend(syn(5))
}

func TestDeniedClientsDoNotAllocate(t *testing.T) {
	r := newRig(t, 1)
	r.setBackends(2, nil, nil)
	list := denying(t, "198.51.100.0/24")
	r.configure(func(s *core.Service) { s.Clients = list })
	w, b := r.workers[0], syn(1)
	if n := testing.AllocsPerRun(100, func() { w.Packet(b, 0); w.Flush() }); n != 0 {
		t.Errorf("%v allocations a packet", n)
	}
}
