package datapath

import (
	"net/netip"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/packet/packettest"
)

// aloneRig has each datagram scheduled by itself.
func aloneRig(t testing.TB, workers, backends int) *rig {
	r := newRig(t, workers)
	for _, s := range r.services {
		s.UDP = core.UDPDatagram
	}
	r.setBackends(backends, nil, nil)
	return r
}

// The datagrams of one socket go to all backends in turn, and leave no flow; TCP
// to the same port has flows.
func TestDatagramsAlone(t *testing.T) {
	r := aloneRig(t, 1, 4)
	to := map[netip.Addr]int{}
	for range 40 {
		to[r.backend(packettest.UDP(client(1), vip4, []byte("x")))]++
	}
	for b, n := range to {
		if n != 10 || len(to) != 4 {
			t.Errorf("%v got %d of 40", b, n)
		}
	}
	if n := r.workers[0].table.Len(); n != 0 {
		t.Errorf("%d flows", n)
	}
	if first := r.backend(syn(1)); r.backend(ack(1)) != first || r.workers[0].table.Len() != 1 {
		t.Error("TCP has no flow")
	}
	if out := r.give(0, packettest.UDP(netip.MustParseAddrPort("[2001:db8::7]:10001"), vip6, []byte("x"))); len(out) != 1 {
		t.Errorf("IPv6: %d packets left", len(out))
	}
}

// All fragments of a datagram go to one backend, those of others to others.
func TestFragmentsOfDatagramsAlone(t *testing.T) {
	r := aloneRig(t, 1, 4)
	homes := map[netip.Addr]bool{}
	for id := range 40 {
		parts := fragments(t, packettest.UDP(client(1), vip4, make([]byte, 3000)), 1280)
		var out []sent
		for _, i := range []int{1, 0, 2} {
			parts[i][4], parts[i][5] = 1, byte(id)
			out = append(out, r.give(0, parts[i])...)
		}
		if len(out) != 3 {
			t.Fatalf("%d of 3 fragments left", len(out))
		}
		for _, o := range out {
			if o.to != out[0].to {
				t.Fatalf("datagram %d went to %v and %v", id, out[0].to, o.to)
			}
		}
		homes[out[0].to] = true
	}
	if len(homes) != 4 {
		t.Errorf("all went to %v", homes)
	}
}

// A flow of before a reload ends at once.
func TestFlowsBeforeDatagrams(t *testing.T) {
	r := newRig(t, 1)
	r.setBackends(2, nil, nil)
	for range 3 {
		r.backend(packettest.UDP(client(1), vip4, []byte("x")))
	}
	alone := *r.services[0]
	alone.UDP = core.UDPDatagram
	r.change(func(s *core.Snapshot) { s.Services = core.NewServiceSet([]*core.Service{&alone, r.services[1]}) })
	w := r.workers[0]
	time.Sleep(2 * time.Millisecond) // the table counts in milliseconds
	w.Tick(time.Now().Add(sweepTime))
	w.Flush()
	if n := w.table.Len(); n != 0 {
		t.Errorf("%d flows are left", n)
	}
}

func TestDatagramsAloneDoNotAllocate(t *testing.T) {
	r := aloneRig(t, 1, 64)
	w := r.workers[0]
	w.Sender = discard{}
	b := packettest.UDP(client(1), vip4, []byte("x"))
	if got := testing.AllocsPerRun(5000, func() {
		w.Packet(b, 0)
		w.Flush()
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}
