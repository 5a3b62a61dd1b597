package policies_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/policies"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newWorkers runs a bundled policy with an instance for each of n workers.
func newWorkers(t testing.TB, name string, n int) []*host.Scheduler {
	t.Helper()
	ctx := context.Background()
	_, wasm, err := policies.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	rt, err := host.NewRuntime(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rt.Close(ctx) })
	p, err := rt.Compile(ctx, name, wasm)
	if err != nil {
		t.Fatal(err)
	}
	workers := make([]*host.Scheduler, n)
	for w := range workers {
		if workers[w], err = p.NewScheduler(ctx, host.Config{Worker: w, Workers: n}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { workers[w].Close() })
	}
	return workers
}

func newWorker(t testing.TB, name string) *host.Scheduler { return newWorkers(t, name, 1)[0] }

var service = &core.Service{Name: "web", Protos: []uint8{core.ProtoTCP}, Ports: []core.PortRange{core.AllPorts}}

// backends are one per weight, b0000, b0001 …
func backends(weights ...uint32) []core.Backend {
	out := make([]core.Backend, len(weights))
	for i, w := range weights {
		out[i] = core.Backend{
			Name: fmt.Sprintf("b%04d", i), Weight: w, Since: time.Unix(1, 0),
			Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}),
		}
	}
	return out
}

func poolOf(weights ...uint32) *core.Pool {
	return core.NewPoolBuilder(service).Build(backends(weights...), nil)
}

// even is n times the weight 1.
func even(n int) []uint32 {
	w := make([]uint32, n)
	for i := range w {
		w[i] = 1
	}
	return w
}

// flowOf is the i-th of a sequence of different flows.
func flowOf(i uint64) core.NewFlow {
	f := core.NewFlow{Family: 4, Rand: core.Mix(i + 1), Now: i, Flags: core.FlowSYN}
	f.Key = core.FlowKey{
		Src: netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}).As16(), SrcPort: uint16(i),
		Dst: netip.AddrFrom4([4]byte{10, 9, 9, 9}).As16(), DstPort: 80, Proto: core.ProtoTCP,
	}
	f.Hash = f.Key.Hash(7)
	return f
}

// pick asks for a backend and demands that the policy answered.
func pick(t testing.TB, s *host.Scheduler, f *core.NewFlow) int {
	t.Helper()
	i, by := s.Pick(f)
	if by != core.ByPolicy {
		t.Fatalf("pick is %d by %s, want one by policy: %s", i, by, s.Stats().LastError)
	}
	return i
}

// randomPool is a change to a set of backends: some come, go, get another
// weight or state.
func randomPool(r *rand.Rand, all []core.Backend, b *core.PoolBuilder) *core.Pool {
	var in []core.Backend
	for i := range all {
		switch r.IntN(8) {
		case 0:
			all[i].Weight = r.Uint32N(10)
		case 1:
			all[i].Weight = r.Uint32()
		case 2:
			all[i].State = core.BackendState(r.IntN(5))
		case 3:
			continue
		}
		in = append(in, all[i])
	}
	return b.Build(in, nil)
}

func TestGuestsEqualTheirTwins(t *testing.T) {
	for name, newTwin := range twins {
		t.Run(name, func(t *testing.T) {
			guest, native := newWorkers(t, name, 3)[1], newTwin(1, 3)
			r := rand.New(rand.NewPCG(1, 2))
			builder, all := core.NewPoolBuilder(service), backends(even(40)...)
			for round := range 25 {
				p := randomPool(r, all, builder)
				if name == "least-packets" { // its twin leaves a change of pool to the host
					builder = core.NewPoolBuilder(service)
					guest = newWorkers(t, name, 3)[1]
				}
				guest.SetPool(p)
				if p.Eligible == 0 {
					continue
				}
				native.setPool(p)
				for i := range uint64(200) {
					f := flowOf(uint64(round)<<8 | i)
					if i%50 == 49 {
						packets := make([]uint64, len(p.Members))
						for j := range packets {
							packets[j] = r.Uint64N(100)
						}
						guest.Refresh(nil, packets, nil)
						native.refresh(packets)
					}
					if got, want := pick(t, guest, &f), native.pick(&f); got != want {
						t.Fatalf("round %d, pick %d of %d backends is %d, the twin's is %d", round, i, p.Eligible, got, want)
					}
				}
			}
		})
	}
}

// golden are the first picks of 5 backends weighing 1, 1, 1, 2, 3. Other
// implementations of the policies are held to them.
var golden = map[string][16]int{
	"hash":          {1, 1, 0, 4, 4, 4, 3, 0, 4, 3, 4, 4, 2, 2, 4, 3},
	"least-packets": {2, 3, 4, 0, 1, 4, 3, 4, 2, 3, 4, 0, 1, 4, 3, 4},
	"round-robin":   {0, 1, 4, 3, 2, 4, 3, 4, 0, 1, 4, 3, 2, 4, 3, 4},
}

func TestGoldenPicks(t *testing.T) {
	for _, name := range policies.Names() {
		s := newWorker(t, name)
		s.SetPool(poolOf(1, 1, 1, 2, 3))
		var got [16]int
		for i := range got {
			f := flowOf(uint64(i))
			got[i] = pick(t, s, &f)
		}
		if got != golden[name] {
			t.Errorf("%s picks %#v, want %#v", name, got, golden[name])
		}
	}
}

// shares picks n flows and counts them by backend.
func shares(t testing.TB, workers []*host.Scheduler, p *core.Pool, n int) []int {
	t.Helper()
	for _, s := range workers {
		s.SetPool(p)
	}
	got := make([]int, p.Eligible)
	for i := range n {
		f := flowOf(uint64(i))
		got[pick(t, workers[i%len(workers)], &f)]++
	}
	return got
}

func TestShares(t *testing.T) {
	tests := []struct {
		policy    string
		workers   int
		weights   []uint32
		flows     int
		tolerance int // flows, per backend
	}{
		{"round-robin", 1, even(3), 300, 0},
		{"round-robin", 4, even(3), 300, 0},
		{"round-robin", 3, even(10), 30, 1}, // few flows, many queues
		{"round-robin", 2, []uint32{1, 2, 3, 10}, 1600, 1},
		{"round-robin", 2, []uint32{1, 1 << 31, 1<<32 - 1}, 3000, 2},
		{"round-robin", 1, even(1000), 3000, 0},
		{"hash", 1, even(3), 30000, 450},
		{"hash", 1, []uint32{1, 2, 3, 10}, 30000, 450},
		{"least-packets", 1, even(3), 300, 0},
		{"least-packets", 4, even(3), 300, 4},
		{"least-packets", 1, []uint32{1, 2, 3, 10}, 1600, 2},
		{"least-packets", 1, even(1000), 3000, 0},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.policy, "/", len(tt.weights), "x", tt.workers), func(t *testing.T) {
			got := shares(t, newWorkers(t, tt.policy, tt.workers), poolOf(tt.weights...), tt.flows)
			var sum float64
			for _, w := range tt.weights {
				sum += float64(w)
			}
			for i, w := range tt.weights {
				want := float64(tt.flows) * float64(w) / sum
				if d := float64(got[i]) - want; d > float64(tt.tolerance)+0.999 || -d > float64(tt.tolerance)+0.999 {
					t.Errorf("backend %d of weight %d got %d flows, want %.1f ± %d", i, w, got[i], want, tt.tolerance)
				}
			}
		})
	}
}

func TestPickDoesNotAllocate(t *testing.T) {
	for _, name := range policies.Names() {
		s := newWorker(t, name)
		s.SetPool(poolOf(even(64)...))
		f := flowOf(1)
		if n := testing.AllocsPerRun(1000, func() { s.Pick(&f) }); n != 0 {
			t.Errorf("%s: pick allocates %v times, want 0", name, n)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for _, name := range policies.Names() {
		for _, n := range []int{2, 64, 1000} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				s := newWorker(b, name)
				s.SetPool(poolOf(even(n)...))
				f := flowOf(1)
				b.ReportAllocs()
				for b.Loop() {
					f.Hash += 0x9e3779b97f4a7c15
					s.Pick(&f)
				}
			})
		}
	}
}

// BenchmarkSetPool alternates between two pools, so that each is news.
func BenchmarkSetPool(b *testing.B) {
	for _, name := range policies.Names() {
		for _, n := range []int{2, 64, 1000} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				s := newWorker(b, name)
				builder := core.NewPoolBuilder(service)
				pools := [2]*core.Pool{builder.Build(backends(even(n)...), nil), builder.Build(backends(even(n+1)...), nil)}
				for i := 0; b.Loop(); i++ {
					s.SetPool(pools[i%2])
				}
			})
		}
	}
}
