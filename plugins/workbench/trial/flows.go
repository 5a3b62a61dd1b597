package trial

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/caplance/caplance/core"
)

// Flows makes up flows. The zero fields of a Flows from NewFlows mean: any
// client, both families.
type Flows struct {
	Family  uint8         // 4 or 6; 0 is one of IPv6 in four
	Clients func() uint64 // the number of the next flow's client; nil is another one each time
	Rate    uint64        // flows per second of their clock; 0 is a million
	rng     *rand.Rand
	n       uint64
}

// NewFlows starts a sequence that seed determines.
func NewFlows(seed uint64) *Flows { return &Flows{rng: rand.New(rand.NewPCG(seed, 0xca91a9ce))} }

// Rand returns the source of what else depends on the seed.
func (f *Flows) Rand() *rand.Rand { return f.rng }

// Next returns the next flow.
func (f *Flows) Next() (n core.NewFlow) {
	client := f.n
	if f.Clients != nil {
		client = f.Clients()
	}
	rate := f.Rate
	if rate == 0 {
		rate = 1_000_000
	}
	h := core.Mix(client + 1) // spreads the clients over the addresses
	n.Family = f.Family
	if n.Family == 0 {
		n.Family = 4
		if h>>62 == 0 {
			n.Family = 6
		}
	}
	n.Key.Src, n.Key.Dst = [16]byte{10: 0xff, 11: 0xff}, Service.VIP.As16()
	binary.BigEndian.PutUint32(n.Key.Src[12:], uint32(h))
	if n.Family == 6 {
		binary.BigEndian.PutUint64(n.Key.Src[:], 0x2001_0db8_0000_0000|h>>32)
		binary.BigEndian.PutUint64(n.Key.Src[8:], core.Mix(h))
		n.Key.Dst = [16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1}
	}
	n.Key.SrcPort, n.Key.DstPort, n.Key.Proto = uint16(1024+f.rng.Uint32N(64512)), 443, core.ProtoTCP
	n.Flags = core.FlowSYN
	if f.n%5 == 4 {
		n.Key.Proto, n.Flags = core.ProtoUDP, 0
	}
	n.Hash, n.Rand, n.Now = n.Key.Hash(Service.Seed), f.rng.Uint64(), f.n*1_000_000_000/rate
	f.n++
	return n
}

// Workload is how many flows there are and how they spread over the clients.
type Workload struct {
	Name string  // uniform or zipf
	N    int     // flows
	S    float64 // exponent of zipf
}

// maxFlows bounds a workload: it takes ten minutes then.
const maxFlows = 1_000_000_000

// ParseWorkload reads "uniform:100k", every flow from another client, or
// "zipf:1M", where the k-th of N/10 clients opens flows in proportion to
// k^-1.1; "zipf:1M:1.5" has another exponent. k and M stand for 10³ and 10⁶.
func ParseWorkload(spec string) (w Workload, err error) {
	wrong := fmt.Errorf("flows %q: write uniform:N or zipf:N[:EXPONENT], like zipf:1M", spec)
	parts := strings.Split(spec, ":")
	if len(parts) < 2 {
		return w, wrong
	}
	w.Name, w.S = parts[0], 1.1
	digits, factor := parts[1], 1
	for suffix, f := range map[string]int{"k": 1e3, "M": 1e6} {
		if rest, ok := strings.CutSuffix(digits, suffix); ok {
			digits, factor = rest, f
		}
	}
	if w.N, err = strconv.Atoi(digits); err != nil || w.N < 1 || w.N > maxFlows/factor {
		return w, fmt.Errorf("flows %q: the number of flows is not between 1 and %dM", spec, maxFlows/1_000_000)
	}
	w.N *= factor
	switch {
	case w.Name == "uniform" && len(parts) == 2, w.Name == "zipf" && len(parts) == 2:
		return w, nil
	case w.Name == "zipf" && len(parts) == 3:
		if w.S, err = strconv.ParseFloat(parts[2], 64); err != nil || !(w.S > 1 && w.S <= 10) {
			return w, fmt.Errorf("flows %q: the exponent is not above 1 and up to 10", spec)
		}
		return w, nil
	}
	return w, wrong
}

// Flows starts the workload.
func (w Workload) Flows(seed uint64) *Flows {
	f := NewFlows(seed)
	if w.Name == "zipf" {
		f.Clients = rand.NewZipf(f.rng, w.S, 1, uint64(max(w.N/10, 1))).Uint64
	}
	return f
}

// Pareto returns a heavy-tailed length: at least lowest, twice as long half as
// often for exponent 1, cut off at most (Crovella and Bestavros, 1997, find
// 1.0 to 1.3 in web traffic).
func Pareto(rng *rand.Rand, exponent, lowest, most float64) float64 {
	return min(most, lowest*math.Pow(1-rng.Float64(), -1/exponent))
}
