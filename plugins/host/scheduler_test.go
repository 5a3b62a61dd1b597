package host_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
	"go.uber.org/goleak"
)

// compileCommand makes the test's binary a compiler.
const compileCommand = "compile-policy"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == compileCommand {
		os.Exit(host.RunCompiler(context.Background(), os.Args[2:], os.Stdin, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

// newRuntime returns a runtime that ends with the test.
func newRuntime(t testing.TB) *host.Runtime {
	t.Helper()
	ctx := context.Background()
	r, err := host.NewRuntime(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return r
}

// newScheduler runs a module as worker 0 of 1.
func newScheduler(t testing.TB, wasm []byte, cfg host.Config) *host.Scheduler {
	t.Helper()
	ctx := context.Background()
	p, err := newRuntime(t).Compile(ctx, t.Name(), wasm)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Workers = 1
	s, err := p.NewScheduler(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	wasm, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return wasm
}

var service = &core.Service{Name: "web", Protos: []uint8{core.ProtoTCP}, Ports: []core.PortRange{core.AllPorts}}

// backends returns n eligible backends b0000, b0001 … of weight 1.
func backends(n int) []core.Backend {
	out := make([]core.Backend, n)
	for i := range out {
		out[i] = core.Backend{
			Name: fmt.Sprintf("b%04d", i), Weight: 1, Since: time.Unix(1, 0),
			Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}),
		}
	}
	return out
}

func poolOf(n int) *core.Pool { return core.NewPoolBuilder(service).Build(backends(n)) }

// flowOf returns the i-th of a sequence of different flows.
func flowOf(i uint64) core.NewFlow {
	f := core.NewFlow{Family: 4, Rand: core.Mix(i + 1), Now: i, Flags: core.FlowSYN}
	f.Key = core.FlowKey{
		Src: netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}).As16(), SrcPort: uint16(i),
		Dst: netip.AddrFrom4([4]byte{10, 9, 9, 9}).As16(), DstPort: 80, Proto: core.ProtoTCP,
	}
	f.Hash = f.Key.Hash(0)
	return f
}

func TestPick(t *testing.T) {
	s := newScheduler(t, testdata(t, "modulo.wasm"), host.Config{})
	f := flowOf(0)
	if i, by := s.Pick(&f); i != -1 || by != core.ByNobody {
		t.Errorf("pick without a pool is %d by %s, want -1 by nobody", i, by)
	}
	s.SetPool(poolOf(0))
	if i, by := s.Pick(&f); i != -1 || by != core.ByNobody {
		t.Errorf("pick from an empty pool is %d by %s, want -1 by nobody", i, by)
	}
	s.SetPool(poolOf(5))
	for n := range uint64(100) {
		f := flowOf(n)
		if i, by := s.Pick(&f); i != int(f.Hash%5) || by != core.ByPolicy {
			t.Errorf("pick %d is %d by %s, want %d by policy", n, i, by, f.Hash%5)
		}
	}
	want := host.Stats{Policy: "TestPick"}
	want.Picks[core.ByNobody], want.Picks[core.ByPolicy] = 2, 100
	if got := s.Stats(); !reflect.DeepEqual(got, want) {
		t.Errorf("stats are %+v, want %+v", got, want)
	}
}

func TestPickDoesNotAllocate(t *testing.T) {
	s := newScheduler(t, testdata(t, "modulo.wasm"), host.Config{})
	s.SetPool(poolOf(64))
	f := flowOf(1)
	if n := testing.AllocsPerRun(1000, func() { s.Pick(&f) }); n != 0 {
		t.Errorf("pick allocates %v times, want 0", n)
	}
}

func TestRefreshDoesNotAllocate(t *testing.T) {
	s := newScheduler(t, testdata(t, "moody.wasm"), host.Config{})
	s.SetPool(poolOf(64))
	active, packets := make([]uint32, 64), make([]uint64, 64)
	if n := testing.AllocsPerRun(1000, func() { s.Refresh(active, packets, packets) }); n != 0 {
		t.Errorf("refresh allocates %v times, want 0", n)
	}
}

// Workers share a policy, and anyone may read statistics meanwhile.
func TestWorkersAtOnce(t *testing.T) {
	ctx := context.Background()
	p, err := newRuntime(t).Compile(ctx, "modulo", testdata(t, "modulo.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	const workers, flows = 4, 1000
	pool := poolOf(5)
	var group sync.WaitGroup
	for w := range workers {
		s, err := p.NewScheduler(ctx, host.Config{Worker: w, Workers: workers})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		group.Go(func() {
			s.SetPool(pool)
			for k := range uint64(flows) {
				f := flowOf(k)
				s.Pick(&f)
			}
		})
		group.Go(func() {
			for s.Stats().Picks[core.ByPolicy] < flows {
				runtime.Gosched()
			}
		})
	}
	group.Wait()
}
