// Package trial makes what the workbench tries policies on: pools of backends
// and flows, the same for the same seed everywhere.
//
//	backends, err := trial.ParseBackends("b1=3,b2,b3")
//	pools := trial.NewPools(backends)
//	flows := trial.NewFlows(seed)
//	scheduler.SetPool(pools.Build())
//	f := flows.Next()
package trial

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caplance/caplance/core"
)

// MaxBackends bounds the pools of a trial; no bundled policy takes more.
const MaxBackends = 4096

// Service is the one that trials are about.
var Service = &core.Service{
	Name: "trial", VIP: netip.MustParseAddr("192.0.2.1"),
	Protos: []uint8{core.ProtoTCP, core.ProtoUDP}, Ports: []core.PortRange{core.AllPorts},
}

// ParseBackends reads a list of backends: a number of them, which are called
// b1, b2, …, or names with weights, "b1=3,b2,b3".
func ParseBackends(spec string) ([]core.Backend, error) {
	if n, err := strconv.Atoi(spec); err == nil {
		if n < 0 || n > MaxBackends {
			return nil, fmt.Errorf("backends %q: make it 0 to %d", spec, MaxBackends)
		}
		return Backends(n), nil
	}
	var out []core.Backend
	for word := range strings.SplitSeq(spec, ",") {
		name, weight, err := ParseWeight(word)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out, func(b core.Backend) bool { return b.Name == name }) {
			return nil, fmt.Errorf("backend %q is there twice", name)
		}
		out = append(out, Backend(name, weight))
	}
	return out, nil
}

// ParseWeight reads "name" or "name=weight"; the weight is 1 where none is given.
func ParseWeight(word string) (name string, weight uint32, err error) {
	name, digits, weighted := strings.Cut(strings.TrimSpace(word), "=")
	if name == "" {
		return "", 0, fmt.Errorf("backend %q has no name: write NAME or NAME=WEIGHT", word)
	}
	if !weighted {
		return name, 1, nil
	}
	w, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return "", 0, fmt.Errorf("backend %q: weight %q is no number from 0 to %d", name, digits, uint32(math.MaxUint32))
	}
	return name, uint32(w), nil
}

// Backends returns n backends of weight 1: b1, b2, ….
func Backends(n int) []core.Backend {
	out := make([]core.Backend, n)
	for i := range out {
		out[i] = Backend(fmt.Sprint("b", i+1), 1)
	}
	return out
}

// Backend returns an active one; its address follows from its name.
func Backend(name string, weight uint32) core.Backend {
	h := core.BackendID(Service.Name, name)
	return core.Backend{
		Name: name, Weight: weight, State: core.Active, Since: time.Unix(1, 0),
		Addr: netip.AddrFrom4([4]byte{10, byte(h), byte(h >> 8), byte(h >> 16)}),
	}
}

// Pools makes the pools of a changing set of backends.
type Pools struct {
	Backends []core.Backend
	builder  *core.PoolBuilder
}

// NewPools starts with the given backends, which it copies.
func NewPools(backends []core.Backend) *Pools {
	return &Pools{slices.Clone(backends), core.NewPoolBuilder(Service)}
}

// Build returns the pool of the backends as they are now.
func (p *Pools) Build() *core.Pool { return p.builder.Build(p.Backends) }

// Find returns the backend of that name, nil if there is none.
func (p *Pools) Find(name string) *core.Backend {
	for i := range p.Backends {
		if p.Backends[i].Name == name {
			return &p.Backends[i]
		}
	}
	return nil
}

// Remove takes a backend out.
func (p *Pools) Remove(name string) {
	p.Backends = slices.DeleteFunc(p.Backends, func(b core.Backend) bool { return b.Name == name })
}

// Permuted returns the pool with the same backends in another order; order[i] is
// what index i holds then. Indices below pool.Eligible must stay there. What
// the host decides without the policy is meaningless in it.
func Permuted(pool *core.Pool, order []int) *core.Pool {
	out := *pool
	out.Members = slices.Clone(pool.Members)
	for i, from := range order {
		handle := out.Members[i].Handle // the pool finds indices by it
		out.Members[i] = pool.Members[from]
		out.Members[i].Handle = handle
	}
	return &out
}

// Natural compares names as people do: b9 before b10.
func Natural(a, b string) int {
	x, y := strings.TrimRight(a, "0123456789"), strings.TrimRight(b, "0123456789")
	if x != y || len(a) == len(b) {
		return cmp.Compare(a, b)
	}
	return cmp.Compare(len(a), len(b))
}
