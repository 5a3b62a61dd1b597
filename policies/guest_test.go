package policies_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
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
	p, workers := compile(t, name), make([]*host.Scheduler, n)
	for w := range workers {
		workers[w] = start(t, p, w, n)
	}
	return workers
}

func newWorker(t testing.TB, name string) *host.Scheduler { return newWorkers(t, name, 1)[0] }

func start(t testing.TB, p *host.Policy, worker, workers int) *host.Scheduler {
	t.Helper()
	s, err := p.NewScheduler(context.Background(), host.Config{Worker: worker, Workers: workers})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// compiled holds every policy that a test has asked for, as long as the process
// lives: fuzzing would do little else than compile.
var compiled = struct {
	sync.Mutex
	runtime  *host.Runtime
	policies map[string]*host.Policy
}{policies: make(map[string]*host.Policy)}

func compile(t testing.TB, name string) *host.Policy {
	t.Helper()
	compiled.Lock()
	defer compiled.Unlock()
	if p := compiled.policies[name]; p != nil {
		return p
	}
	ctx := context.Background()
	_, wasm, err := policies.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	if compiled.runtime == nil {
		if compiled.runtime, err = host.NewRuntime(ctx); err != nil {
			t.Fatal(err)
		}
	}
	p, err := compiled.runtime.Compile(ctx, name, wasm)
	if err != nil {
		t.Fatal(err)
	}
	compiled.policies[name] = p
	return p
}

var service = &core.Service{Name: "web", Protos: []uint8{core.ProtoTCP}, Ports: []core.PortRange{core.AllPorts}}

// backends returns one per weight, b0000, b0001 …
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
	return core.NewPoolBuilder(service).Build(backends(weights...))
}

// even returns n times the weight 1.
func even(n int) []uint32 {
	w := make([]uint32, n)
	for i := range w {
		w[i] = 1
	}
	return w
}

// flowOf returns the i-th of a sequence of different flows.
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
	if by != core.ByPolicy && by != core.ByTable {
		t.Fatalf("pick is %d by %s, want one by policy: %s", i, by, s.Stats().LastError)
	}
	return i
}

// withTable returns the pool with the policy's own table, if it makes one.
func withTable(t testing.TB, name string, pool *core.Pool) *core.Pool {
	t.Helper()
	if name != "maglev" || pool.Eligible == 0 {
		return pool
	}
	l, err := compile(t, name).BuildTable(context.Background(), host.Config{Workers: 1}, pool)
	if err != nil {
		t.Fatal(err)
	}
	return pool.WithTable(l)
}
