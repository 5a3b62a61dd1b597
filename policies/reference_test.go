package policies_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/policies"
	"github.com/caplance/caplance/policies/reference"
)

// pair is a guest and its reference implementation, the second of three workers.
type pair struct {
	name    string
	r       *rand.Rand
	policy  *host.Policy
	all     []core.Backend
	builder *core.PoolBuilder

	guest  *host.Scheduler
	native reference.Scheduler
	pool   *core.Pool
}

func newPair(t *testing.T, name string, seed uint64) *pair {
	p := &pair{name: name, r: rand.New(rand.NewPCG(1, seed)), policy: compile(t, name), all: backends(even(40)...)}
	for i := range p.all {
		p.all[i].Vitals = new(core.Vitals)
	}
	p.begin(t)
	return p
}

func (p *pair) begin(t *testing.T) {
	p.builder = core.NewPoolBuilder(service)
	p.guest, p.native, p.pool = start(t, p.policy, 1, 3), reference.For(p.name)(1, 3), nil
}

// change gives both another pool: some backends come, go, get another weight,
// state, slow start, priority or limit.
//
// What the host makes of the counters of a newcomer is not the reference's business:
// policies that look at counters begin anew.
func (p *pair) change(t *testing.T, limits bool) {
	if goesOn := p.name == "round-robin" || p.name == "weighted-round-robin"; limits || !goesOn {
		p.guest.Close()
		p.begin(t)
	}
	p.load()
	var in []core.Backend
	for i := range p.all {
		b := &p.all[i]
		b.MaxFlows = 0
		if limits {
			b.MaxFlows = p.r.Uint32N(20)
		}
		switch p.r.IntN(10) {
		case 0:
			b.Weight = p.r.Uint32N(10)
		case 1:
			b.Weight = p.r.Uint32()
		case 2:
			b.State = core.BackendState(p.r.IntN(5))
		case 3:
			b.Priority = p.r.Uint32N(3)
		case 4:
			continue
		}
		in = append(in, *b)
	}
	pool := p.builder.Build(in)
	for i := range pool.Members {
		if p.r.IntN(4) == 0 {
			pool.Members[i].Ramp = 100 + p.r.Uint32N(901)
		}
	}
	p.pool = withTable(t, p.name, pool)
	p.guest.SetPool(p.pool)
	p.native.SetPool(p.pool)
}

func (p *pair) refresh() {
	p.load()
	active, packets, bytes := make([]uint32, len(p.pool.Members)), make([]uint64, len(p.pool.Members)), make([]uint64, len(p.pool.Members))
	for i := range active {
		active[i], packets[i], bytes[i] = p.r.Uint32N(20), p.r.Uint64N(100), p.r.Uint64N(1e6)
	}
	p.guest.Refresh(active, packets, bytes)
	p.native.Refresh(active, packets, bytes)
}

// load has the backends tell another load, or none. A guest hears of it with the
// next pool or refresh.
func (p *pair) load() {
	for i := range p.all {
		if v := p.all[i].Vitals; p.r.IntN(4) == 0 {
			v.SetLoad(core.UnknownLoad)
		} else {
			v.SetLoad(p.r.Uint32N(1001))
		}
	}
}

func (p *pair) flowEnds() {
	if p.pool.Eligible == 0 {
		return
	}
	e := core.FlowEnd{Backend: p.pool.Members[0].Handle, Packets: 10, Bytes: p.r.Uint64N(1e5), Duration: uint64(time.Second)}
	p.guest.Ended(&e)
	p.native.Ended(&e)
}

func (p *pair) pick(t *testing.T) {
	t.Helper()
	f := flowOf(p.r.Uint64N(1 << 20))
	g := f
	got, _ := p.guest.Pick(&f)
	if want := p.native.Pick(&g); got != want {
		t.Fatalf("pick among %d backends is %d, the reference has %d (attempt %d)", p.pool.Eligible, got, want, g.Attempt)
	}
	if failed := p.guest.Stats().LastError; failed != "" {
		t.Fatal(failed)
	}
}

func TestGuestsEqualTheirReference(t *testing.T) {
	for _, name := range policies.Names() {
		for _, limits := range []bool{false, true} {
			p := newPair(t, name, 2)
			t.Run(name, func(t *testing.T) {
				for range 15 {
					p.change(t, limits)
					for i := range 200 {
						if i%50 == 49 {
							p.refresh()
							p.flowEnds()
						}
						p.pick(t)
					}
				}
			})
		}
	}
}

// FuzzGuestsEqualTheirReference takes the first byte for the policy and every other
// one for something that happens.
func FuzzGuestsEqualTheirReference(f *testing.F) {
	names := policies.Names()
	for i := range names {
		f.Add([]byte{byte(i), 0, 20, 40, 2, 3, 60, 1, 200}, uint64(i))
	}
	f.Fuzz(func(t *testing.T, what []byte, seed uint64) {
		if len(what) < 2 || len(what) > 50 {
			return
		}
		p := newPair(t, names[int(what[0])%len(names)], seed)
		p.change(t, what[1]&1 == 1)
		for _, op := range what[2:] {
			switch {
			case op < 2:
				p.change(t, op == 1)
			case op == 2:
				p.refresh()
			case op == 3:
				p.flowEnds()
			default:
				for range op % 64 {
					p.pick(t)
				}
			}
		}
	})
}
