package datapath

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/counters"
	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/packet/packettest"
	"github.com/caplance/caplance/core/verdict"
)

var (
	vip4 = netip.MustParseAddrPort("192.0.2.1:80")
	vip6 = netip.MustParseAddrPort("[2001:db8::1]:80")
)

func client(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(n >> 8)}), uint16(10000+n))
}

// sent is what fakeTunnel and fakeRaw saw.
type sent struct {
	to     netip.Addr
	packet []byte
	direct bool
}

type fakeTunnel struct{ out []sent }

func (t *fakeTunnel) Tunnel(to netip.Addr, _ uint16, _ bool, b []byte) {
	t.out = append(t.out, sent{to: to, packet: bytes.Clone(b)})
}
func (t *fakeTunnel) Direct(to netip.Addr, b []byte) {
	t.out = append(t.out, sent{to: to, packet: bytes.Clone(b), direct: true})
}
func (t *fakeTunnel) Flush() {}

func (t *fakeTunnel) Reply(b []byte) error {
	t.out = append(t.out, sent{packet: bytes.Clone(b)})
	return nil
}

type rawFunc func([]byte) error

func (f rawFunc) Send(b []byte) error { return f(b) }

// nextInTurn is a scheduler that takes the eligible backends in turn.
type nextInTurn struct {
	pool   *core.Pool
	n      int
	active []uint32
	ended  []core.FlowEnd
	reject bool
}

func (s *nextInTurn) SetPool(p *core.Pool) { s.pool = p }
func (s *nextInTurn) Pick(*core.NewFlow) (int, core.Decision) {
	if s.reject {
		return -1, core.ByReject
	}
	if s.pool.Eligible == 0 {
		return -1, core.ByNobody
	}
	s.n++
	return s.n % s.pool.Eligible, core.ByPolicy
}
func (s *nextInTurn) Ended(e *core.FlowEnd) { s.ended = append(s.ended, *e) }
func (s *nextInTurn) Tick(uint64)           {}
func (s *nextInTurn) Refresh(active []uint32, _, _ []uint64) {
	s.active = append(s.active[:0], active...)
}

// rig is a set of workers over one IPv4 and one IPv6 service.
type rig struct {
	t        testing.TB
	services []*core.Service
	snap     *core.Snapshot
	builders []*core.PoolBuilder
	workers  []*Worker
	scheds   [][]*nextInTurn
	tunnels  []*fakeTunnel
	counters *counters.Set
	backends []core.Backend
}

func newRig(t testing.TB, workers int) *rig {
	both := []uint8{core.ProtoTCP, core.ProtoUDP}
	r := &rig{t: t, services: []*core.Service{
		{ID: 0, Name: "v4", VIP: vip4.Addr(), Protos: both, Ports: []core.PortRange{{First: 80, Last: 80}}},
		{ID: 1, Name: "v6", VIP: vip6.Addr(), Protos: both, Ports: []core.PortRange{{First: 80, Last: 80}}, Seed: 7},
	}}
	r.counters = counters.New(workers)
	for _, s := range r.services {
		r.builders = append(r.builders, core.NewPoolBuilder(s))
	}
	r.snap = &core.Snapshot{
		Settings: &core.Settings{Timeouts: core.Timeouts{TCP: time.Minute, TCPSyn: time.Minute, TCPFin: time.Minute, TCPHalfClosed: time.Minute, UDP: time.Minute}},
		Services: core.NewServiceSet(r.services), Pools: core.NewPoolSet(), VIPs: &core.VIPSet{}, Links: &core.LinkSet{MTU: 1500},
	}
	r.publish(nil)
	for i := range workers {
		tun := &fakeTunnel{}
		own := []*nextInTurn{{}, {}}
		w := NewWorker(Config{
			Index: i, Snapshot: func() *core.Snapshot { return r.snap }, Scheduler: func(s *core.Service) Scheduler { return own[s.ID] },
			Sender: tun, Errors: rawFunc(tun.Reply), Flows: 1000, Counters: r.counters,
			FlowQueue: func(k *core.FlowKey) int { return int(k.SrcPort) % workers },
		})
		r.workers, r.tunnels, r.scheds = append(r.workers, w), append(r.tunnels, tun), append(r.scheds, own)
	}
	for _, w := range r.workers {
		w.Connect(r.workers, func() {})
	}
	return r
}

// setBackends publishes pools of n active backends but those in state.
func (r *rig) setBackends(n int, state map[int]core.BackendState, midFlow *core.LateLookup) {
	r.backends = nil
	for i := range n {
		b := core.Backend{Name: fmt.Sprintf("b%d", i), Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Weight: 1, State: state[i], Since: time.Unix(1, 0), TunnelMTU: 1472, LinkMTU: 1500, OnLink: true}
		if state[i] != gone {
			r.backends = append(r.backends, b)
		}
	}
	r.publish(midFlow)
}

const gone core.BackendState = 99

func (r *rig) publish(midFlow *core.LateLookup) {
	pools := map[core.ServiceID]*core.Pool{}
	for i, b := range r.builders {
		p := b.Build(r.backends)
		p.MidFlow = midFlow
		pools[core.ServiceID(i)] = p
	}
	r.change(func(s *core.Snapshot) { s.Pools = s.Pools.With(pools) })
}

// change publishes a snapshot that differs.
func (r *rig) change(f func(*core.Snapshot)) {
	next := *r.snap
	f(&next)
	r.snap = &next
}

// give shows a packet to a worker as a batch of its own and returns what left.
func (r *rig) give(worker int, b []byte) []sent {
	w, tun := r.workers[worker], r.tunnels[worker]
	tun.out = nil
	w.Packet(bytes.Clone(b), 0)
	w.Flush()
	return tun.out
}

// hopped returns a packet as it is sent on.
func hopped(b []byte) []byte {
	b = bytes.Clone(b)
	packet.Hop(b)
	return b
}

// backend gives a packet and returns the backend it went to.
func (r *rig) backend(b []byte) netip.Addr {
	r.t.Helper()
	out := r.give(0, b)
	if len(out) != 1 || !bytes.Equal(out[0].packet, hopped(b)) {
		r.t.Fatalf("%d packets left, or changed ones", len(out))
	}
	return out[0].to
}

func (r *rig) count(c Count) (n uint64) {
	for _, w := range r.workers {
		n += w.Counts[c].Load()
	}
	return n
}

func syn(n int) []byte { return packettest.TCP(client(n), vip4, packet.SYN, nil) }
func ack(n int) []byte { return packettest.TCP(client(n), vip4, packet.ACK, []byte("data")) }

// Flows stay on their backends while others come and go, and those of a
// backend that left go elsewhere.
func TestFlowsStick(t *testing.T) {
	r := newRig(t, 1)
	r.setBackends(4, nil, nil)
	const flows = 300
	was := map[int]netip.Addr{}
	for n := range flows {
		was[n] = r.backend(syn(n))
	}
	check := func(what string, mayMove func(netip.Addr) bool) {
		t.Helper()
		for n := range flows {
			now := r.backend(ack(n))
			if now != was[n] && !mayMove(was[n]) {
				t.Fatalf("%s: flow %d moved from %v to %v", what, n, was[n], now)
			}
			was[n] = now
		}
	}
	nobody := func(netip.Addr) bool { return false }
	check("at rest", nobody)
	r.setBackends(6, nil, nil)
	check("two joined", nobody)
	r.setBackends(6, map[int]core.BackendState{1: core.Draining, 2: core.Unhealthy, 3: core.Lost}, nil)
	check("one drains, one is unhealthy, one lost", nobody)
	r.setBackends(6, map[int]core.BackendState{1: gone}, nil)
	check("one left", func(a netip.Addr) bool { return a == netip.MustParseAddr("10.0.0.1") })
	for n := range flows {
		if was[n] == netip.MustParseAddr("10.0.0.1") {
			t.Fatalf("flow %d went to a backend that left", n)
		}
	}
}

// New flows go to active backends only.
func TestNewFlowsAvoid(t *testing.T) {
	for _, state := range []core.BackendState{core.Draining, core.Unhealthy, core.Lost, core.Paused} {
		r := newRig(t, 1)
		r.setBackends(3, map[int]core.BackendState{1: state}, nil)
		for n := range 100 {
			if to := r.backend(syn(n)); to == netip.MustParseAddr("10.0.0.1") {
				t.Fatalf("%v: got a new flow", state)
			}
		}
	}
}

func TestPausedHoldsFlows(t *testing.T) {
	r := newRig(t, 1)
	r.setBackends(1, nil, nil)
	to := r.backend(syn(1))
	r.setBackends(1, map[int]core.BackendState{0: core.Paused}, nil)
	if out := r.give(0, ack(1)); len(out) != 0 || r.count(PausedDrop) != 1 {
		t.Errorf("a packet reached a paused backend: %v", out)
	}
	r.setBackends(1, nil, nil)
	if r.backend(ack(1)) != to {
		t.Error("the flow did not survive the pause")
	}
}

// After a restart, flows that the predecessor's lookup table placed find their
// way back, and wait while their backend has not registered again.
func TestRestart(t *testing.T) {
	r := newRig(t, 1)
	r.setBackends(4, nil, nil)
	pool := r.snap.Pools.Of(0)
	home := func(n int) netip.Addr {
		k := core.FlowKey{Src: client(n).Addr().As16(), Dst: vip4.Addr().As16(), SrcPort: client(n).Port(), DstPort: 80, Proto: 6}
		return pool.Members[pool.Lookup.At(k.Hash(0))].Addr
	}
	r.setBackends(4, map[int]core.BackendState{0: gone, 1: gone}, core.NewLateLookup(pool.Candidates()))
	held := 0
	for n := range 200 {
		out := r.give(0, ack(n))
		if len(out) == 0 {
			held++
			if h := home(n); h != netip.MustParseAddr("10.0.0.0") && h != netip.MustParseAddr("10.0.0.1") {
				t.Fatalf("flow %d held though %v is back", n, h)
			}
		} else if out[0].to != home(n) {
			t.Fatalf("flow %d went to %v, was at %v", n, out[0].to, home(n))
		}
	}
	if held == 0 || uint64(held) != r.count(Held) {
		t.Errorf("%d flows held, %d counted", held, r.count(Held))
	}
}

// A service that the configuration dropped keeps its flows and gets no new
// ones, also when another one has its port; one that is gone has none.
func TestLeavingService(t *testing.T) {
	r := newRig(t, 1)
	r.setBackends(2, nil, nil)
	to := r.backend(syn(1))
	leaving := *r.services[0]
	leaving.Leaving = true
	successor := *r.services[0]
	successor.ID, successor.Name, successor.Seed = 1, "renamed", 99
	w := r.workers[0]
	for _, services := range [][]*core.Service{{&leaving}, {&leaving, &successor}, {&successor, &leaving}} {
		r.change(func(s *core.Snapshot) { s.Services = core.NewServiceSet(services) })
		if got := r.backend(ack(1)); got != to {
			t.Errorf("%d services: the flow went to %v", len(services), got)
		}
		if v := w.Packet(syn(2), 0); len(services) == 1 && v != verdict.Accept {
			t.Errorf("a new flow of a leaving service: verdict %d", v)
		}
		w.Flush()
	}
	r.change(func(s *core.Snapshot) {
		s.Services, s.Pools = core.NewServiceSet([]*core.Service{&successor}), s.Pools.With(map[core.ServiceID]*core.Pool{0: nil})
	})
	w.Tick(time.Now().Add(sweepTime))
	if e := w.table.Find(keyOf(1), w.Hash(keyOf(1))); e != nil && e.Service == 0 {
		t.Error("a flow outlived its service")
	}
}

func keyOf(n int) *core.FlowKey {
	return &core.FlowKey{Src: client(n).Addr().As16(), Dst: vip4.Addr().As16(), SrcPort: client(n).Port(), DstPort: 80, Proto: 6}
}

// A service's seed and the table's size change without a flow being lost.
func TestLiveSettings(t *testing.T) {
	r := newRig(t, 1)
	r.setBackends(4, nil, nil)
	was := map[int]netip.Addr{}
	for n := range 200 {
		was[n] = r.backend(syn(n))
		r.backend(ack(n))
	}
	seeded := *r.services[0]
	seeded.Seed = 4711
	r.change(func(s *core.Snapshot) {
		s.Services = core.NewServiceSet([]*core.Service{&seeded, r.services[1]})
		settings := *s.Settings
		settings.Timeouts.TCP = time.Hour
		s.Settings = &settings
	})
	r.workers[0].Resize(5000)
	for n := range 200 {
		if got := r.backend(ack(n)); got != was[n] {
			t.Fatalf("flow %d moved from %v to %v", n, was[n], got)
		}
	}
	r.workers[0].Resize(100)
	r.workers[0].settle()
	if got := r.counters.Table(); got.Flows != 100 || got.Capacity != 100 {
		t.Errorf("%+v after the table shrank", got)
	}
	total := int64(0)
	for _, m := range r.snap.Pools.Of(0).Members {
		total += r.counters.Total(m.Handle).Active
	}
	if total != 100 {
		t.Errorf("%d flows are counted as open", total)
	}
}

func TestNobodyAndReject(t *testing.T) {
	r := newRig(t, 1)
	if out := r.give(0, syn(1)); len(out) != 0 || r.count(NoBackend) != 1 {
		t.Error("a packet left though there is no backend")
	}
	r.setBackends(1, nil, nil)
	r.scheds[0][0].reject = true
	if out := r.give(0, syn(1)); len(out) != 0 || r.count(Rejected) != 1 {
		t.Error("a packet of a refused flow left")
	}
}

func TestForeignIsAccepted(t *testing.T) {
	r := newRig(t, 1)
	r.setBackends(1, nil, nil)
	other := packettest.TCP(client(1), netip.AddrPortFrom(vip4.Addr(), 81), packet.SYN, nil)
	ping := packettest.ICMPError(client(1).Addr(), 8, 0, packettest.UDP(vip4, client(1), nil))
	for _, b := range [][]byte{other, ping} {
		if w := r.workers[0]; w.Packet(b, 0) != verdict.Accept {
			t.Error("kept a packet that is not for a service")
		}
	}
	if w := r.workers[0]; w.Packet([]byte{0x45, 0, 0}, 0) != verdict.Drop || r.count(Malformed) != 1 {
		t.Error("a malformed packet went on")
	}
}

// A client that opens the same connection anew after it was closed is asked
// about again; within one that lives it is not.
func TestPortReuse(t *testing.T) {
	r := newRig(t, 1)
	r.setBackends(2, nil, nil)
	first := r.backend(syn(1))
	if r.backend(syn(1)) != first {
		t.Error("a repeated SYN moved the flow")
	}
	r.backend(packettest.TCP(client(1), vip4, packet.FIN|packet.ACK, nil))
	if r.backend(packettest.TCP(client(1), vip4, packet.ACK, nil)) != first {
		t.Error("the last ACK went elsewhere")
	}
	if r.backend(syn(1)) == first {
		t.Error("a new connection was not scheduled")
	}
}

// An ICMP error finds the backend whose packet it quotes, on whichever worker
// it comes up.
func TestICMPErrorsFindTheirFlow(t *testing.T) {
	router := netip.MustParseAddr("203.0.113.1")
	r := newRig(t, 2)
	r.setBackends(5, nil, nil)
	for n := range 20 {
		owner := int(client(n).Port()) % 2
		out := r.give(owner, syn(n))
		quote := packettest.TCP(vip4, client(n), packet.ACK, make([]byte, 1000))
		b := packettest.ICMPError(router, 3, 4, quote[:28])
		r.give(0, b)
		got := r.tunnels[0].out
		if owner == 1 {
			r.tunnels[1].out = nil
			r.workers[1].Tick(time.Now())
			got = r.tunnels[1].out
		}
		if len(got) != 1 || got[0].to != out[0].to || !bytes.Equal(got[0].packet, hopped(b)) {
			t.Fatalf("flow %d at %v: error went to %v", n, out[0].to, got)
		}
	}
}

// fragments cuts a datagram as a client's host would.
func fragments(t *testing.T, b []byte, size int) [][]byte {
	t.Helper()
	if b[0]>>4 == 4 {
		b[6] &^= 0x40 // no DF
	}
	var p packet.Packet
	var f packet.Fragmenter
	if err := p.Parse(b); err != nil || !f.Start(b, &p, size, 4711) {
		t.Fatal(err)
	}
	var out [][]byte
	for x := f.Next(make([]byte, size)); x != nil; x = f.Next(make([]byte, size)) {
		out = append(out, x)
	}
	return out
}

// Fragments reach the backend of the flow that whole packets have, whatever
// their order and wherever they come up.
func TestFragmentsFollowTheirFlow(t *testing.T) {
	for _, tt := range []struct {
		name  string
		vip   netip.AddrPort
		cl    netip.AddrPort
		order []int
	}{
		{"in order", vip4, client(1), []int{0, 1, 2}},
		{"first one last", vip4, client(1), []int{2, 1, 0}},
		{"IPv6", vip6, netip.MustParseAddrPort("[2001:db8::7]:10001"), []int{1, 0, 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, 2)
			r.setBackends(5, nil, nil)
			whole := r.give(1, packettest.UDP(tt.cl, tt.vip, []byte("small"))) // port 10001: worker 1
			r.tunnels[1].out = nil
			parts := fragments(t, packettest.UDP(tt.cl, tt.vip, make([]byte, 3000)), 1280)
			if len(parts) != 3 {
				t.Fatalf("%d fragments", len(parts))
			}
			for _, i := range tt.order {
				r.give(0, parts[i])
			}
			r.workers[1].Tick(time.Now())
			got := r.tunnels[1].out
			if len(got) != 3 {
				t.Fatalf("%d of 3 fragments left", len(got))
			}
			for _, g := range got {
				if g.to != whole[0].to {
					t.Errorf("fragment to %v, flow is at %v", g.to, whole[0].to)
				}
			}
		})
	}
}

// A fragment whose first never comes is forgotten.
func TestLoneFragmentExpires(t *testing.T) {
	r := newRig(t, 1)
	r.setBackends(1, nil, nil)
	parts := fragments(t, packettest.UDP(client(1), vip4, make([]byte, 3000)), 1280)
	r.give(0, parts[1])
	w := r.workers[0]
	if w.tracker.parked != 1 {
		t.Fatalf("%d parked", w.tracker.parked)
	}
	w.Tick(time.Now().Add(reassembly + time.Second))
	if w.tracker.parked != 0 || w.tracker.waiting.len() != 0 || w.tracker.bytes != 0 {
		t.Error("still waiting")
	}
	if n := r.count(FragmentsLost); n != 1 {
		t.Errorf("%d fragments counted as lost", n)
	}
}

func TestTooLongForTheTunnel(t *testing.T) {
	r := newRig(t, 1)
	r.setBackends(1, nil, nil)
	r.workers[0].Tick(time.Now())
	b := packettest.UDP(client(1), vip4, make([]byte, 1460))
	out := r.give(0, b) // DF
	if len(out) != 1 || out[0].to.IsValid() || out[0].packet[20] != 3 || binary.BigEndian.Uint16(out[0].packet[26:]) != 1472 {
		t.Errorf("no fragmentation-needed with mtu 1472: %v", out)
	}
	b[6] = 0
	out = r.give(0, b)
	if len(out) != 2 || len(out[0].packet) > 1472 || len(out[1].packet) > 1472 || !out[0].to.IsValid() {
		t.Errorf("not cut in two: %d packets", len(out))
	}
	// What the kernel put together from fragments was never one packet on the wire.
	c6 := netip.MustParseAddrPort("[2001:db8::7]:10001")
	if out = r.give(0, packettest.UDP(c6, vip6, make([]byte, 3000))); len(out) != 3 || !out[0].to.IsValid() {
		t.Errorf("a reassembled IPv6 datagram left as %d packets", len(out))
	}
	if out = r.give(0, packettest.UDP(c6, vip6, make([]byte, 1440))); len(out) != 1 || out[0].to.IsValid() || out[0].packet[40] != 2 {
		t.Errorf("no packet-too-big")
	}
	for range 1000 {
		r.give(0, packettest.UDP(client(1), vip4, make([]byte, 1460)))
	}
	if sent := r.count(TooBig); sent != 1002 {
		t.Errorf("%d counted", sent)
	}
	if r.workers[0].errQuota != 0 {
		t.Error("ICMP errors are not bounded")
	}
}

// Nobody is asked for packets smaller than every host must take: they are cut
// where the way is narrower, DF or not.
func TestTooLongForANarrowTunnel(t *testing.T) {
	r := newRig(t, 1)
	r.setBackends(1, nil, nil)
	for i := range r.backends {
		r.backends[i].TunnelMTU = 400
	}
	r.publish(nil)
	c6 := netip.MustParseAddrPort("[2001:db8::7]:10001")
	for name, tt := range map[string]struct {
		in        []byte
		told, cut int // the MTU in the error, or the fragments
	}{
		"IPv4 longer":      {packettest.TCP(client(1), vip4, packet.ACK, make([]byte, 600)), 576, 0},
		"IPv4, 576 bytes":  {packettest.TCP(client(1), vip4, packet.ACK, make([]byte, 576-40)), 0, 2},
		"IPv6 longer":      {packettest.TCP(c6, vip6, packet.ACK, make([]byte, 1300)), 1280, 0},
		"IPv6, 1280 bytes": {packettest.TCP(c6, vip6, packet.ACK, make([]byte, 1280-60)), 0, 4},
	} {
		r.workers[0].Tick(time.Now())
		r.give(0, packettest.TCP(client(1), vip4, packet.SYN, nil))
		r.give(0, packettest.TCP(c6, vip6, packet.SYN, nil))
		out := r.give(0, tt.in)
		switch {
		case tt.cut > 0:
			if len(out) != tt.cut || !out[0].to.IsValid() || len(out[0].packet) > 400 {
				t.Errorf("%s: left as %d packets, want %d", name, len(out), tt.cut)
			}
		case len(out) != 1 || out[0].to.IsValid():
			t.Errorf("%s: no ICMP error", name)
		default:
			at := map[byte]int{4: 26, 6: 46}[tt.in[0]>>4]
			if got := int(binary.BigEndian.Uint16(out[0].packet[at:])); got != tt.told {
				t.Errorf("%s: told to keep to %d bytes, want %d", name, got, tt.told)
			}
		}
	}
}

// A packet whose TTL ends here goes no further, and makes no flow; its sender is
// told, unless it is an error itself.
func TestTTL(t *testing.T) {
	r := newRig(t, 1)
	r.setBackends(1, nil, nil)
	r.workers[0].Tick(time.Now())
	c6 := netip.MustParseAddrPort("[2001:db8::7]:10001")
	first, later := parts(t, 3, 3000)[0], parts(t, 3, 3000)[1]
	quote := packettest.ICMPError(netip.MustParseAddr("203.0.113.1"), 3, 4, packettest.TCP(vip4, client(1), packet.ACK, nil))
	dropped := uint64(0)
	for _, tt := range []struct {
		name string
		in   []byte
		at   int
		told bool
	}{
		{"IPv4", syn(1), 8, true},
		{"IPv6", packettest.TCP(c6, vip6, packet.SYN, nil), 7, true},
		{"first fragment", first, 8, true},
		{"later fragment", later, 8, false},
		{"ICMP error", quote, 8, false},
	} {
		for ttl := range uint8(3) {
			tt.in[tt.at] = ttl
			out := r.give(0, tt.in)
			if ttl > 1 {
				if len(out) != 1 || !out[0].to.IsValid() || out[0].packet[tt.at] != ttl-1 {
					t.Errorf("%s: TTL %d did not leave with one less", tt.name, ttl)
				}
				continue
			}
			dropped++
			told := len(out) == 1 && !out[0].to.IsValid() && (out[0].packet[20] == 11 || out[0].packet[40] == 3)
			if told != tt.told || len(out) > 1 || r.count(TTLExpired) != dropped {
				t.Errorf("%s: TTL %d: told %v, %d packets left, %d counted, want %d", tt.name, ttl, told, len(out), r.count(TTLExpired), dropped)
			}
			if n := r.workers[0].table.Len(); tt.name == "IPv4" && n != 0 {
				t.Error("it made a flow")
			}
		}
	}
	for range 1000 {
		r.give(0, func() []byte { b := syn(1); b[8] = 1; return b }())
	}
	if n := r.workers[0].errQuota; n != 0 {
		t.Error("ICMP errors are not bounded")
	}
}

func TestAccounts(t *testing.T) {
	r := newRig(t, 2)
	r.setBackends(1, nil, nil)
	for n := range 10 {
		r.give(n%2, syn(n))
		r.give(n%2, ack(n))
	}
	h := r.snap.Pools.Of(0).Members[0].Handle
	want := counters.Total{Active: 10, Flows: 10, Packets: 20, Bytes: 10*40 + 10*44}
	if got := r.counters.Total(h); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	r.workers[0].now += refreshAfter(r.snap.Pools.Of(0))
	r.workers[0].views[0].refreshed = 0
	r.workers[0].tickSchedulers()
	if got := r.scheds[0][0].active; len(got) != 1 || got[0] != 10 {
		t.Errorf("the policy was told of %v active flows", got)
	}
	r.setBackends(1, map[int]core.BackendState{0: gone}, nil)
	r.workers[0].Tick(time.Now().Add(sweepTime))
	if n := r.workers[0].table.Len(); n != 0 {
		t.Errorf("%d flows of a backend that left", n)
	}
	if e := r.scheds[0][0].ended; len(e) != 5 || e[0].Backend != h || e[0].Packets != 2 || e[0].Bytes != 84 {
		t.Errorf("the policy was told of these ends: %+v", e)
	}
	if got := r.counters.Total(h); got.Active != 5 { // the other worker has not looked yet
		t.Errorf("%+v", got)
	}
}

// discard forwards nothing, so that the benchmarks price the worker alone.
type discard struct{}

func (discard) Tunnel(netip.Addr, uint16, bool, []byte) {}
func (discard) Direct(netip.Addr, []byte)               {}
func (discard) Flush()                                  {}

func hotRig(t testing.TB) (*Worker, []byte) {
	r := newRig(t, 1)
	r.setBackends(64, nil, nil)
	w := r.workers[0]
	w.Sender = discard{}
	return w, syn(1)
}

func TestPacketPathDoesNotAllocate(t *testing.T) {
	w, b := hotRig(t)
	n := 0
	if got := testing.AllocsPerRun(5000, func() {
		n++
		binary.BigEndian.PutUint16(b[20:], uint16(n)) // another flow
		b[8] = 64
		w.Packet(b, 0)
		w.Packet(b, 0)
		w.Flush()
		if n%64 == 0 {
			w.Tick(w.epoch)
		}
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

// One pick of some is timed; the counters of a service go on with another worker at
// the same queue, and begin anew for another service with the ID.
func TestPicksAreTimed(t *testing.T) {
	r := newRig(t, 1)
	r.setBackends(3, nil, nil)
	for n := range 2 * pickSample {
		r.give(0, syn(n))
	}
	web := r.services[0]
	if got := r.counters.Service(web).Picks; got.Count != 2 || got.Sum <= 0 {
		t.Errorf("%d picks of %d timed, %v in all", got.Count, 2*pickSample, got.Sum)
	}
	NewWorker(r.workers[0].Config)
	if got := r.counters.Service(web).Picks; got.Count != 2 {
		t.Errorf("%d timed after another worker took the queue over", got.Count)
	}
	other := *web
	other.Name = "other"
	r.change(func(s *core.Snapshot) { s.Services = core.NewServiceSet([]*core.Service{&other, r.services[1]}) })
	r.workers[0].Tick(time.Now())
	if got := r.counters.Service(&other).Picks; got.Count != 0 {
		t.Errorf("another service begins with %d", got.Count)
	}
	if got := r.counters.Service(web).Picks; got.Count != 0 {
		t.Errorf("one that is gone has %d", got.Count)
	}
}

// What the flow table had no room for is counted on when another table takes its place.
func TestEvictionsGoOn(t *testing.T) {
	r := newRig(t, 1)
	r.setBackends(3, nil, nil)
	w := r.workers[0]
	for n := range 1500 {
		r.give(0, syn(n))
	}
	w.Tick(time.Now())
	first := r.counters.Table().Evicted
	w.Resize(2000)
	w.Tick(time.Now())
	if got := r.counters.Table().Evicted; first == 0 || got != first {
		t.Errorf("%d evicted, %d with another table", first, got)
	}
	for n := range 1500 {
		r.give(0, syn(2000+n))
	}
	w.Tick(time.Now())
	if got := r.counters.Table().Evicted; got <= first {
		t.Errorf("%d evicted, %d before", got, first)
	}
}

func BenchmarkKnownFlow(b *testing.B) {
	w, p := hotRig(b)
	for b.Loop() {
		p[8] = 64
		w.Packet(p, 0)
	}
}

func BenchmarkNewFlow(b *testing.B) {
	w, p := hotRig(b)
	n := uint32(0)
	for b.Loop() {
		n++
		p[8] = 64
		binary.BigEndian.PutUint32(p[12:], n)
		w.Packet(p, 0)
	}
}
