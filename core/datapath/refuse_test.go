package datapath

import (
	"net/netip"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/packet/packettest"
)

// deserted returns a rig whose services had a backend, which is gone.
func deserted(t testing.TB, state core.BackendState) *rig {
	r := newRig(t, 1)
	r.setBackends(1, map[int]core.BackendState{0: state}, nil)
	r.change(func(s *core.Snapshot) { s.Complete, s.Settled = true, true })
	r.refill()
	return r
}

// refill gives the worker its quotas anew, between two batches.
func (r *rig) refill() {
	r.workers[0].Tick(time.Now())
	r.workers[0].Flush()
}

func without(r *rig, how core.Unserved) {
	for _, s := range r.services {
		s.Unserved = how
	}
}

// Who finds no backend is told at once, in the language of his protocol.
func TestNobodyIsToldAtOnce(t *testing.T) {
	for _, state := range []core.BackendState{gone, core.Draining, core.Unhealthy, core.Paused} {
		for name, tt := range map[string]struct {
			in    []byte
			proto uint8
			at    int // the proof's place in the answer
			want  byte
		}{
			"SYN":          {syn(1), 6, 20 + 13, packet.RST | packet.ACK},
			"SYN, IPv6":    {packettest.TCP(client6, vip6, packet.SYN, nil), 6, 40 + 13, packet.RST | packet.ACK},
			"mid-flow":     {ack(1), 6, 20 + 13, packet.RST},
			"UDP":          {packettest.UDP(client(1), vip4, []byte("x")), 1, 20 + 1, 3},
			"UDP, IPv6":    {packettest.UDP(client6, vip6, []byte("x")), 58, 40 + 1, 4},
			"UDP fragment": {fragments(t, packettest.UDP(client(1), vip4, make([]byte, 3000)), 1280)[0], 1, 20 + 1, 3},
		} {
			r := deserted(t, state)
			out := r.give(0, tt.in)
			if len(out) != 1 || out[0].to.IsValid() {
				t.Errorf("%v, %s: %d packets left", state, name, len(out))
				continue
			}
			proto := out[0].packet[9]
			if out[0].packet[0]>>4 == 6 {
				proto = out[0].packet[6]
			}
			if proto != tt.proto || out[0].packet[tt.at] != tt.want {
				t.Errorf("%v, %s: answered by %x", state, name, out[0].packet)
			}
			if r.count(NoBackend) != 1 || r.count(Refused) != 1 {
				t.Errorf("%v, %s: %d without a backend, %d refused", state, name, r.count(NoBackend), r.count(Refused))
			}
		}
	}
}

// Who is told nothing.
func TestNobodySaysNothing(t *testing.T) {
	const n = 3
	for name, tt := range map[string]struct {
		prepare func(r *rig)
		in      []byte
	}{
		"drop":                      {func(r *rig) { without(r, core.DropUnserved) }, syn(n)},
		"a reset":                   {nil, packettest.TCP(client(n), vip4, packet.RST, nil)},
		"from a multicast address":  {nil, packettest.TCP(netip.MustParseAddrPort("224.0.0.1:5"), vip4, packet.SYN, nil)},
		"from the broadcast":        {nil, packettest.UDP(netip.MustParseAddrPort("255.255.255.255:5"), vip4, nil)},
		"a backend may be back":     {func(r *rig) { r.setBackends(1, map[int]core.BackendState{0: core.Lost}, nil) }, syn(n)},
		"a predecessor's may":       {func(r *rig) { r.change(func(s *core.Snapshot) { s.Complete = false }) }, syn(n)},
		"the first has yet to come": {func(r *rig) { r.change(func(s *core.Snapshot) { s.Settled = false }) }, syn(n)},
		"an ICMP error":             {nil, packettest.ICMPError(netip.MustParseAddr("203.0.113.1"), 3, 4, packettest.TCP(vip4, client(n), packet.ACK, nil))},
		"the policy rejects": {func(r *rig) {
			r.setBackends(1, nil, nil)
			r.scheds[0][0].reject = true
		}, syn(n)},
	} {
		r := deserted(t, gone)
		if tt.prepare != nil {
			tt.prepare(r)
		}
		if out := r.give(0, tt.in); len(out) != 0 || r.count(Refused) != 0 {
			t.Errorf("%s: answered by %+v", name, out)
		}
	}
}

// A backend that was there once is proof enough that the start is over.
func TestServedOnce(t *testing.T) {
	r := deserted(t, gone)
	r.change(func(s *core.Snapshot) { s.Settled = false })
	pool := *r.snap.Pools.Of(0)
	pool.Served = true
	r.change(func(s *core.Snapshot) { s.Pools = s.Pools.With(map[core.ServiceID]*core.Pool{0: &pool}) })
	if out := r.give(0, syn(1)); len(out) != 1 {
		t.Errorf("%d answers", len(out))
	}
}

// A flood is answered no more often than the quota says.
func TestRefusalsAreBounded(t *testing.T) {
	r := deserted(t, gone)
	for n := range 3 * resetsPerTick {
		r.give(0, syn(n))
		r.give(0, packettest.UDP(client(n), vip4, nil))
	}
	if n := r.count(Refused); n != resetsPerTick+errorsPerTick {
		t.Errorf("%d answers", n)
	}
	r.refill()
	if out := r.give(0, syn(1)); len(out) != 1 {
		t.Error("not answered after the next tick")
	}
}
