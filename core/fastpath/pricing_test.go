package fastpath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/nettest"
	"github.com/cilium/ebpf"
)

// priceSize is the length of each packet, bytes.
const priceSize = 64

// priceChunk is how many packets are shown at once, much less than a silent
// daemon's time.
const priceChunk = 1 << 14

// pricing holds the programs and what they are shown.
type pricing struct {
	b      *Balancer
	driver *ebpf.Collection

	snapshot *core.Snapshot
	empty    float64 // ns that the driver took with an empty program, when net was called last
}

var priceService = &core.Service{
	Name: "price", VIP: netip.MustParseAddr("192.0.2.1"), Protos: []uint8{core.ProtoUDP}, Ports: []core.PortRange{{First: 80, Last: 80}}, Seed: 1,
}

// priced are the packets that BenchmarkProgram measures.
var priced = []struct {
	name   string
	mask   uint64 // of the flow's number
	direct bool

	prefixes int  // of the service's list of clients
	limited  bool // the service limits sources' new flows
}{
	{"one flow, tunnel", 0, false, 0, false},
	{"one flow, direct", 0, true, 0, false},
	{"a million flows at random, tunnel", pricedFlows - 1, false, 0, false},
	{"new flow by table, tunnel", newFlows, false, 0, false},
	{"new flow by table, tunnel, 1 prefix", newFlows, false, 1, false},
	{"new flow by table, tunnel, 100 000 prefixes", newFlows, false, 100_000, false},
	{"new flow by table, tunnel, limited", newFlows, false, 0, true},
}

// configure gives the service a list of so many prefixes, by which all clients are
// taken, and a limit that none exceeds.
func (p *pricing) configure(t testing.TB, prefixes int, limited bool) {
	t.Helper()
	svc := *priceService
	if prefixes > 0 {
		svc.Clients = randomClients(t, prefixes)
	}
	if limited {
		svc.NewFlows, svc.SourcePrefix4, svc.SourcePrefix6 = 1_000_000, 32, 64
	}
	next := *p.snapshot
	next.Services = core.NewServiceSet([]*core.Service{&svc})
	if err := errors.Join(p.b.Add(t.Context(), p.snapshot, &next), p.setMACs()); err != nil {
		t.Fatal(err)
	}
	p.snapshot = &next
}

// setMACs has XDP take the driver's frames for its own.
func (p *pricing) setMACs() error {
	frame := priceFrame()
	return p.b.gen.setMACs([]core.Link{{Name: "lo", Index: inLink, MAC: core.MAC(frame[:6])}})
}

// pricedFlows is how many established flows there are, a power of two.
const pricedFlows = 1 << 20

// BenchmarkProgram measures what a packet costs in the XDP program, net of what
// drives it, by BPF_PROG_TEST_RUN, and what a flow takes of the kernel's
// memory. Nothing is attached. tools/bench runs it.
//
//	go test -run '^$' -bench Program -benchtime 1x ./core/fastpath
func BenchmarkProgram(b *testing.B) {
	nettest.NetNS(b)
	p := newPricing(b, pricedFlows)
	for _, c := range priced {
		b.Run(c.name, func(b *testing.B) {
			p.configure(b, c.prefixes, c.limited)
			var total float64
			for range b.N {
				ns, err := p.net(c.mask, c.direct, pricedFlows)
				if err != nil {
					b.Fatal(err)
				}
				total += ns
			}
			b.ReportMetric(total/float64(b.N), "ns/packet")
		})
	}
	b.Run("memory", func(b *testing.B) {
		for b.Loop() {
		}
		b.ReportMetric(p.flowBytes(b, pricedFlows), "B/flow")
	})
}

// TestPricing proves that what BenchmarkProgram shows to the program is
// forwarded.
func TestPricing(t *testing.T) {
	nettest.NetNS(t)
	const flows = 1 << 16
	p := newPricing(t, flows)
	for _, c := range priced {
		p.configure(t, c.prefixes, c.limited)
		ns, err := p.net(min(c.mask, flows-1), c.direct, flows)
		if err != nil || ns <= 0 {
			t.Errorf("%s: %.0f ns, %v", c.name, ns, err)
		}
		t.Logf("%s: %.0f ns, %.1f times what the driver and an empty program take", c.name, ns, ns/p.empty)
	}
	if ns, err := p.net(newFlows, false, flows); err != nil || ns <= 0 {
		t.Errorf("new flows: %.0f ns, %v", ns, err)
	}
	switch n := p.flowBytes(t, flows); {
	case n == 24+40: // before Linux 6.4: as if it were keys and values alone
	case n < 100 || n > 137:
		t.Errorf("%.1f bytes a flow", n)
	}
}

// priceHandle is that of the only backend.
var priceHandle = core.NewHandle(0, 1)

// newFlows as a mask makes each packet one of a new flow.
const newFlows = math.MaxUint64

// flowBytes returns the memory of the map of established flows, per flow, as the
// kernel accounts for it.
func (p *pricing) flowBytes(t testing.TB, flows int) float64 {
	t.Helper()
	info, err := p.b.maps().Flows.Info()
	if err != nil {
		t.Fatal(err)
	}
	bytes, ok := info.Memlock()
	if !ok {
		t.Fatal("the kernel does not tell the map's memory")
	}
	return float64(bytes) / float64(flows)
}

func newPricing(t testing.TB, flows int) *pricing {
	t.Helper()
	snapshot := priceSnapshot(flows)
	p := &pricing{snapshot: snapshot}
	spec, err := loadPrice()
	if err == nil {
		p.driver, err = ebpf.NewCollection(spec)
	}
	if err != nil {
		t.Fatalf("driver: %v", err)
	}
	t.Cleanup(p.driver.Close)
	if p.b, err = Open(Config{StateDir: t.TempDir(), Settings: snapshot.Settings}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.b.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := p.b.Add(t.Context(), nil, snapshot); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.setMACs(), p.driver.Variables["frame"].Set(priceFrame()), p.fill(flows)); err != nil {
		t.Fatal(err)
	}
	return p
}

// priceSnapshot has one service, whose table sends all to one backend, and no
// link to attach to.
func priceSnapshot(flows int) *core.Snapshot {
	backends := []core.Backend{{Name: "b", Addr: netip.MustParseAddr("10.0.0.11"), Weight: 1, Since: time.Unix(1, 0)}}
	pool := core.NewPoolBuilder(priceService).Build(backends)
	return &core.Snapshot{
		Settings: &core.Settings{Type: core.XDP, Flows: flows, MaxBackends: 1024},
		Services: core.NewServiceSet([]*core.Service{priceService}),
		Pools:    core.NewPoolSet().With(map[core.ServiceID]*core.Pool{0: pool.WithTable(pool.Lookup)}),
		VIPs:     &core.VIPSet{List: []core.VIP{{Addr: priceService.VIP}}},
		Links:    &core.LinkSet{}, Complete: true,
	}
}

// priceFrame returns a packet of any flow: the driver writes its source.
func priceFrame() (f [priceSize]byte) {
	copy(f[12:], []byte{8, 0, 0x45, 0, 0, priceSize - 14, 0, 0, 0, 0, 64, core.ProtoUDP})
	vip := priceService.VIP.As4()
	copy(f[30:], vip[:])
	binary.BigEndian.PutUint16(f[36:], 80)
	binary.BigEndian.PutUint16(f[38:], priceSize-34)
	return f
}

// priceSource returns the source of the n-th flow, spread in price.c.
func priceSource(n uint64) netip.AddrPort {
	n = n * 0x9e3779b97f4a7c15 & (1<<36 - 1)
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 0x8000|uint16(n>>24))
}

// fill puts the flows into the map.
func (p *pricing) fill(flows int) error {
	keys, values := make([]balanceFlowKey, flows), make([]balanceFlow, flows)
	for n := range keys {
		src := priceSource(uint64(n))
		k := core.FlowKey{Src: src.Addr().As16(), Dst: priceService.VIP.As16(), SrcPort: src.Port(), DstPort: 80, Proto: core.ProtoUDP}
		keys[n], values[n] = flowKey(&k, 0), balanceFlow{Handle: uint32(priceHandle)}
	}
	if _, err := p.b.maps().Flows.BatchUpdate(keys, values, nil); err != nil {
		return fmt.Errorf("fast path: flows: %w", err)
	}
	return p.driver.Variables["next"].Set(uint64(1 << 24))
}

// net returns the mean cost of a packet in a number of runs, ns.
func (p *pricing) net(mask uint64, direct bool, runs int) (float64, error) {
	t := Target{
		Handle: priceHandle, Direct: direct, Addr: netip.MustParseAddr("10.0.0.11"), Source: netip.MustParseAddr("10.0.0.1"),
		Link: 1, MTU: 1400, Port: 1337, MAC: make([]byte, 6), LinkMAC: make([]byte, 6),
	}
	if err := errors.Join(p.b.SetTarget(t), p.driver.Variables["mask"].Set(mask)); err != nil {
		return 0, err
	}
	if mask == newFlows {
		runs = min(runs, int(p.b.maps().Pending.MaxEntries())) &^ (priceChunk - 1) // none gives way
	}
	whole, err := p.gross(p.b.gen.xdp, max(runs, priceChunk))
	if err != nil {
		return 0, err
	}
	if err := p.clear(); err != nil {
		return 0, err
	}
	p.empty, err = p.gross(p.driver.Programs["nothing"], max(runs, priceChunk))
	return whole - p.empty, err
}

// gross returns the same with the driver's own part.
func (p *pricing) gross(prog *ebpf.Program, runs int) (float64, error) {
	if err := p.driver.Maps["program"].Put(uint32(0), prog); err != nil {
		return 0, err
	}
	frame := priceFrame()
	var total time.Duration
	for range runs / priceChunk {
		if err := p.b.Heartbeat(); err != nil {
			return 0, err
		}
		verdict, took, err := p.driver.Programs["drive"].Benchmark(frame[:], priceChunk, nil)
		if err != nil {
			return 0, err
		}
		if verdict != 3 { // XDP_TX
			return 0, fmt.Errorf("verdict %d: the packet was not forwarded", verdict)
		}
		total += took // of one packet
	}
	return float64(total) / float64(runs/priceChunk), nil
}

// clear forgets the pending flows.
func (p *pricing) clear() error {
	var keys []balanceFlowKey
	_, err := p.b.walkMap(p.b.view.Load(), p.b.maps().Pending, func(_ *ebpf.Map, k *balanceFlowKey, _ *Flow) bool {
		keys = append(keys, *k)
		return true
	})
	if err == nil && len(keys) > 0 {
		_, err = p.b.maps().Pending.BatchDelete(keys, nil)
	}
	return err
}
