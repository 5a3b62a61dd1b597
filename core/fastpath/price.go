package fastpath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/flow"
	"github.com/cilium/ebpf"
)

// Prices is what packets and flows cost in the kernel.
type Prices struct {
	Packets   []Price
	FlowBytes float64 // of kernel memory, as the map accounts for it
}

// Price is what one packet costs in the XDP program, net of what drives it.
type Price struct {
	What string
	NS   float64
}

// priceSize is the length of each packet, bytes.
const priceSize = 64

// priceChunk is how many packets are shown at once, much less than a silent
// daemon's time.
const priceChunk = 1 << 14

// pricing is the programs and what they are shown.
type pricing struct {
	b      *Balancer
	driver *ebpf.Collection
}

var priceService = &core.Service{
	Name: "price", VIP: netip.MustParseAddr("192.0.2.1"), Protos: []uint8{core.ProtoUDP}, Ports: []core.PortRange{{First: 80, Last: 80}}, Seed: 1,
}

// TakePrices measures the XDP program by BPF_PROG_TEST_RUN, with a map that
// holds a number of flows, a power of two. dir keeps it meanwhile. Nothing is
// attached.
func TakePrices(dir string, flows int) (out Prices, err error) {
	p, err := newPricing(dir, flows)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	for _, s := range []struct {
		what   string
		mask   uint64
		direct bool
	}{
		{"one flow, tunnel", 0, false},
		{"one flow, direct", 0, true},
		{fmt.Sprintf("%d flows at random, tunnel", flows), uint64(flows - 1), false},
		{"new flow by table, tunnel", newFlows, false},
	} {
		ns, err := p.net(s.mask, s.direct, flows)
		if err != nil {
			return out, fmt.Errorf("price of %s: %w", s.what, err)
		}
		out.Packets = append(out.Packets, Price{s.what, ns})
	}
	out.FlowBytes, err = p.flowBytes(flows)
	return out, err
}

// newFlows as a mask makes each packet one of a new flow.
const newFlows = math.MaxUint64

// flowBytes is the memory of the map of established flows, per flow.
func (p *pricing) flowBytes(flows int) (float64, error) {
	info, err := p.b.objs.Flows.Info()
	if err != nil {
		return 0, fmt.Errorf("fast path: flows: %w", err)
	}
	bytes, ok := info.Memlock()
	if !ok {
		return 0, errors.New("fast path: flows: the kernel does not tell the map's memory")
	}
	return float64(bytes) / float64(flows), nil
}

func newPricing(dir string, flows int) (_ *pricing, err error) {
	p := &pricing{}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	p.b, err = OpenBalancer(Config{
		Links: []string{"lo"}, XDP: true, Flows: flows, Timeouts: flow.Timeouts{UDP: time.Hour}, Services: []*core.Service{priceService}, StateDir: dir,
	})
	if err != nil {
		return nil, err
	}
	spec, err := loadPrice()
	if err != nil {
		return nil, err
	}
	if p.driver, err = ebpf.NewCollection(spec); err != nil {
		return nil, fmt.Errorf("fast path: driver: %w", err)
	}
	return p, errors.Join(p.driver.Variables["frame"].Set(priceFrame()), p.fill(flows))
}

// priceFrame is a packet of any flow: the driver writes its source.
func priceFrame() (f [priceSize]byte) {
	copy(f[12:], []byte{8, 0, 0x45, 0, 0, priceSize - 14, 0, 0, 0, 0, 64, core.ProtoUDP})
	vip := priceService.VIP.As4()
	copy(f[30:], vip[:])
	binary.BigEndian.PutUint16(f[36:], 80)
	binary.BigEndian.PutUint16(f[38:], priceSize-34)
	return f
}

// priceSource is the source of the n-th flow, spread in price.c.
func priceSource(n uint64) netip.AddrPort {
	n = n * 0x9e3779b97f4a7c15 & (1<<36 - 1)
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 0x8000|uint16(n>>24))
}

// fill puts the flows into the map, and a table for the new ones.
func (p *pricing) fill(flows int) error {
	backends := []core.Backend{{Name: "b", Addr: netip.MustParseAddr("10.0.0.11"), Weight: 1, Since: time.Unix(1, 0)}}
	pool := core.NewPoolBuilder(priceService).Build(backends, nil)
	if err := p.b.SetLookup(pool.WithTable(pool.Lookup)); err != nil {
		return err
	}
	h := pool.Members[0].Handle
	keys, values := make([]balanceFlowKey, flows), make([]balanceFlow, flows)
	for n := range keys {
		src := priceSource(uint64(n))
		k := core.FlowKey{Src: src.Addr().As16(), Dst: priceService.VIP.As16(), SrcPort: src.Port(), DstPort: 80, Proto: core.ProtoUDP}
		keys[n], values[n] = flowKey(&k, 0), balanceFlow{Gen: generation(h)}
	}
	if _, err := p.b.objs.Flows.BatchUpdate(keys, values, nil); err != nil {
		return fmt.Errorf("fast path: flows: %w", err)
	}
	return p.driver.Variables["next"].Set(uint64(1 << 24))
}

// net is the mean cost of a packet in a number of runs, ns.
func (p *pricing) net(mask uint64, direct bool, runs int) (float64, error) {
	t := Target{
		Handle: 1 << 16, Direct: direct, Addr: netip.MustParseAddr("10.0.0.11"), Source: netip.MustParseAddr("10.0.0.1"),
		Link: 1, MTU: 1400, Port: 1337, MAC: make([]byte, 6), LinkMAC: make([]byte, 6),
	}
	if err := errors.Join(p.b.SetTarget(t), p.driver.Variables["mask"].Set(mask)); err != nil {
		return 0, err
	}
	if mask == newFlows {
		runs = min(runs, int(p.b.objs.Pending.MaxEntries())) &^ (priceChunk - 1) // none gives way
	}
	whole, err := p.gross(p.b.xdp, max(runs, priceChunk))
	if err != nil {
		return 0, err
	}
	if err := p.clear(); err != nil {
		return 0, err
	}
	empty, err := p.gross(p.driver.Programs["nothing"], max(runs, priceChunk))
	return whole - empty, err
}

// gross is the same with the driver's own part.
func (p *pricing) gross(prog *ebpf.Program, runs int) (float64, error) {
	if err := p.driver.Maps["program"].Put(uint32(0), prog); err != nil {
		return 0, err
	}
	frame := priceFrame()
	var total time.Duration
	for range runs / priceChunk {
		if err := p.b.Beat(); err != nil {
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
	_, err := p.b.walkMap(p.b.objs.Pending, func(_ *ebpf.Map, k *balanceFlowKey, _ *Flow) bool {
		keys = append(keys, *k)
		return true
	})
	if err == nil && len(keys) > 0 {
		_, err = p.b.objs.Pending.BatchDelete(keys, nil)
	}
	return err
}

func (p *pricing) close() error {
	var errs []error
	if p.driver != nil {
		p.driver.Close()
	}
	if p.b != nil {
		errs = append(errs, p.b.Close())
	}
	return errors.Join(errs...)
}
