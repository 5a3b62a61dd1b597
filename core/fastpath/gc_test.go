package fastpath

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/cilium/ebpf"
)

// gcTestbed has idle timeouts of 40 s for TCP, 30 for UDP, 20 after FIN,
// 10 for SYNs.
func gcTestbed(t *testing.T) *testbed {
	t.Helper()
	s := newTestbed(t)
	s.timeouts = core.Timeouts{TCP: 40 * time.Second, UDP: 30 * time.Second, TCPFin: 20 * time.Second, TCPHalfClosed: 25 * time.Second, TCPSyn: 10 * time.Second}
	return s
}

// silent puts a flow to a backend of the service web into a map, its last
// packet some time ago.
func (s *testbed) silent(m *ebpf.Map, src netip.AddrPort, proto uint8, b backend, closed bool, idle time.Duration) error {
	k := flowKey(key(src, vip4, proto), s.gen.vips.byAddr[vip4.Addr().As16()])
	tick := s.tick()
	v := balanceFlow{
		Handle: uint32(b.handle()), Service: 1, State: flag(closed), Rule: uint8(ByTable), Packets: 7, Bytes: 700,
		Created: tick - s.clock.jiffies(time.Minute), Seen: tick - uint32(int64(idle)*int64(s.clock.hz)/int64(time.Second)),
	}
	return m.Put(&k, &v)
}

func TestGC(t *testing.T) {
	s := gcTestbed(t)
	flows, pending := s.maps().Flows, s.maps().Pending
	for _, tt := range []struct {
		name   string
		in     *ebpf.Map
		proto  uint8
		closed bool
		to     backend
		idle   time.Duration
		ended  bool
		active int64
	}{
		{"TCP", flows, 6, false, tunnel4, 0, false, 1},
		{"TCP, silent", flows, 6, false, tunnel4, 39 * time.Second, false, 1},
		{"TCP, silent for too long", flows, 6, false, tunnel4, 41 * time.Second, true, 0},
		{"SYN", pending, 6, false, tunnel4, 9 * time.Second, false, 1},
		{"SYN, silent for too long", pending, 6, false, tunnel4, 11 * time.Second, true, 0},
		{"FIN, the other direction may go on", flows, 6, true, tunnel4, finGrace / 2, false, 1},
		{"FIN", flows, 6, true, tunnel4, 2 * finGrace, false, 0},
		{"FIN, silent", flows, 6, true, tunnel4, 19 * time.Second, false, 0},
		{"FIN, silent for too long", flows, 6, true, tunnel4, 21 * time.Second, true, 0},
		{"FIN of a pending flow", pending, 6, true, tunnel4, 19 * time.Second, false, 0},
		{"FIN of a pending flow, silent for too long", pending, 6, true, tunnel4, 21 * time.Second, true, 0},
		{"UDP", flows, 17, false, tunnel4, 29 * time.Second, false, 1},
		{"UDP, silent for too long", flows, 17, false, tunnel4, 31 * time.Second, true, 0},
		{"one datagram", pending, 17, false, tunnel4, 29 * time.Second, false, 1},
		{"one datagram, silent for too long", pending, 17, false, tunnel4, 31 * time.Second, true, 0},
		{"seen a moment after the clock was read", flows, 6, false, tunnel4, -time.Second, false, 1},
		{"backend paused", flows, 6, false, paused, 0, false, 1},
		{"backend gone", flows, 6, false, gone, 0, true, 0},
		{"backend gone, pending", pending, 17, false, gone, 0, true, 0},
		{"backend gone, closed", flows, 6, true, gone, 0, true, 0},
		{"backend replaced", flows, 6, false, replaced, 0, true, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := s.reset(); err != nil {
				t.Fatal(err)
			}
			if err := s.silent(tt.in, client4, tt.proto, tt.to, tt.closed, tt.idle); err != nil {
				t.Fatal(err)
			}
			var ended []Flow
			c, err := s.GC(&core.IdleTimeouts{All: s.timeouts}, nil, nil, func(f *Flow) { ended = append(ended, *f) })
			if err != nil {
				t.Fatal(err)
			}
			if got := c.Active(tt.to.handle()); got != tt.active || c.Flows+len(ended) != 1 {
				t.Errorf("%d active of %d flows, %d ended", got, c.Flows, len(ended))
			}
			if tt.ended != (len(ended) == 1) {
				t.Fatalf("ended: %+v", ended)
			}
			k := key(client4, vip4, tt.proto)
			if _, ok := s.Find(k); ok == tt.ended {
				t.Errorf("in the table: %v", ok)
			}
			if !tt.ended {
				return
			}
			f := ended[0]
			if f.Key != *k || f.Service != 1 || f.Backend != tt.to.handle() || f.Packets != 7 || f.Bytes != 700 || f.Rule != ByTable ||
				f.Closed != tt.closed || f.Established != (tt.in == flows) || f.Age.Round(time.Second) != time.Minute || f.Idle.Round(time.Second) != tt.idle {
				t.Errorf("told of %+v", f)
			}
		})
	}
}

// A flow is as patient as its service says.
func TestGCOfServices(t *testing.T) {
	s := gcTestbed(t)
	own := s.timeouts
	own.TCP = time.Hour
	by := []core.Timeouts{s.timeouts, own} // of the service web the second
	for _, tt := range []struct {
		by    []core.Timeouts
		ended int
	}{{nil, 1}, {by, 0}, {by[:1], 1}} {
		if err := s.reset(); err != nil {
			t.Fatal(err)
		}
		if err := s.silent(s.maps().Flows, client4, 6, tunnel4, false, time.Minute); err != nil {
			t.Fatal(err)
		}
		ended := 0
		if _, err := s.GC(&core.IdleTimeouts{All: s.timeouts, By: tt.by}, nil, nil, func(*Flow) { ended++ }); err != nil || ended != tt.ended {
			t.Errorf("with %d services %d ended, want %d: %v", len(tt.by), ended, tt.ended, err)
		}
	}
}

// A collection of many flows, in both tables, takes many batches. It counts each
// backend's own, and ends each flow once.
func TestLargeGC(t *testing.T) {
	testLink(t)
	snapshot := testSnapshot()
	snapshot.Settings.Flows = 1 << 16 // and an eighth of that pending
	s := &testbed{Balancer: open(t, snapshot), snapshot: snapshot, timeouts: core.Timeouts{TCP: time.Hour, TCPSyn: time.Hour}}
	of := []backend{tunnel4, tunnel6, direct4}
	for _, b := range of {
		if err := s.SetTarget(b.target(1)); err != nil {
			t.Fatal(err)
		}
	}
	const flows, pending = 3*walkBatch + 3, walkBatch + 2
	for m, n := range map[*ebpf.Map]int{s.maps().Flows: flows, s.maps().Pending: pending} {
		if err := s.fill(m, n, of); err != nil {
			t.Fatal(err)
		}
	}
	seen := 0
	if err := s.Each(func(*Flow) bool { seen++; return seen < flows+10 }); err != nil || seen != flows+10 {
		t.Errorf("shown %d flows, want to stop at %d: %v", seen, flows+10, err)
	}
	c, err := s.GC(&core.IdleTimeouts{All: s.timeouts}, nil, nil, func(f *Flow) { t.Errorf("ended: %+v", f) })
	if err != nil || c.Flows != flows+pending {
		t.Fatalf("%d flows, want %d: %v", c.Flows, flows+pending, err)
	}
	for i, b := range of {
		want := int64((flows-i+2)/3 + (pending-i+2)/3)
		if got := c.Active(b.handle()); got != want {
			t.Errorf("backend %d has %d flows, want %d", b, got, want)
		}
	}
	if err := s.RemoveTarget(tunnel6.handle()); err != nil {
		t.Fatal(err)
	}
	ended := map[core.FlowKey]bool{}
	c, err = s.GC(&core.IdleTimeouts{All: s.timeouts}, nil, nil, func(f *Flow) {
		if f.Backend != tunnel6.handle() || ended[f.Key] {
			t.Errorf("ended: %+v", f)
		}
		ended[f.Key] = true
	})
	want := (flows+1)/3 + (pending+1)/3
	if err != nil || len(ended) != want || c.Flows != flows+pending-want {
		t.Errorf("%d flows, %d ended, want %d: %v", c.Flows, len(ended), want, err)
	}
	if c, err = s.GC(&core.IdleTimeouts{All: s.timeouts}, nil, nil, func(f *Flow) { t.Errorf("ended again: %+v", f) }); err != nil || c.Flows != flows+pending-want {
		t.Errorf("%d flows: %v", c.Flows, err)
	}
}

// fill puts n flows into a map, to backends of the service web in turn.
func (s *testbed) fill(m *ebpf.Map, n int, to []backend) error {
	keys, values := make([]balanceFlowKey, n), make([]balanceFlow, n)
	for i := range keys {
		b := to[i%len(to)]
		src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, flag(m == s.maps().Pending), byte(i >> 8), byte(i)}), 1)
		keys[i] = flowKey(key(src, vip4, core.ProtoTCP), s.gen.vips.byAddr[vip4.Addr().As16()])
		values[i] = balanceFlow{Handle: uint32(b.handle()), Service: 1, Seen: s.tick()}
	}
	_, err := m.BatchUpdate(keys, values, nil)
	return err
}

func TestNames(t *testing.T) {
	for want, f := range map[string]Flow{
		"pending": {}, "established": {Established: true}, "closing": {Established: true, Closed: true},
	} {
		if f.State() != want {
			t.Errorf("state %s, want %s", f.State(), want)
		}
	}
	if got := fmt.Sprint(ByPolicy, ByTable, ByFallback); got != "policy table fallback" {
		t.Error(got)
	}
}

// What a flow takes of the kernel's memory, bytes.
func TestFlowSize(t *testing.T) {
	testLink(t)
	snapshot := testSnapshot()
	snapshot.Settings.Flows = 1 << 16
	b := open(t, snapshot)
	info, err := b.maps().Flows.Info()
	if err != nil {
		t.Fatal(err)
	}
	all, ok := info.Memlock()
	if each := float64(all) / float64(snapshot.Settings.Flows); !ok || each > 137 {
		t.Errorf("%.1f bytes for a flow", each)
	}
}
