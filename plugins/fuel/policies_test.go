package fuel_test

import (
	"encoding/binary"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/plugins/abi"
	"github.com/caplance/caplance/plugins/fuel"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// policy is a bundled policy at work, without the host around it.
type policy struct {
	mod    api.Module
	pick   api.Function
	fuel   api.MutableGlobal // nil when it is not metered
	flow   uint32
	number uint64 // of the next flow
	stack  [2]uint64
}

// newPolicy starts a policy with n backends of weights 1 to 3.
func newPolicy(t testing.TB, r wazero.Runtime, wasm []byte, n int) *policy {
	t.Helper()
	p := &policy{mod: start(t, r, wasm)}
	p.pick = p.mod.ExportedFunction(abi.Pick)
	p.fuel, _ = p.mod.ExportedGlobal(fuel.FuelExport).(api.MutableGlobal)
	p.flow = p.buffer(t, abi.SlotFlow, abi.FlowSize)
	if b := p.buffer(t, abi.SlotBackends, n*abi.BackendSize); b != 0 {
		for i := range uint32(n) {
			at := b + i*abi.BackendSize
			p.mod.Memory().WriteUint64Le(at, uint64(i)*0x9e3779b97f4a7c15)
			p.mod.Memory().WriteUint32Le(at+8, i%3+1)
		}
	}
	p.buffer(t, abi.SlotActive, 4*n)
	p.buffer(t, abi.SlotPackets, 8*n)
	p.buffer(t, abi.SlotBytes, 8*n)
	if _, err := p.mod.ExportedFunction(abi.Backends).Call(ctx, uint64(n), uint64(n)); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *policy) buffer(t testing.TB, slot abi.Slot, size int) uint32 {
	t.Helper()
	res, err := p.mod.ExportedFunction(abi.Buffer).Call(ctx, uint64(slot), uint64(size))
	if err != nil {
		t.Fatal(err)
	}
	return uint32(res[0])
}

// next asks for the next flow of a fixed sequence.
func (p *policy) next(t testing.TB) int32 {
	p.number++
	hash := p.number * 0x9e3779b97f4a7c15
	if p.flow != 0 {
		record, _ := p.mod.Memory().Read(p.flow, abi.FlowSize)
		binary.LittleEndian.PutUint64(record[8:], hash)
		binary.LittleEndian.PutUint64(record[16:], hash^p.number)
	}
	p.stack = [2]uint64{hash, uint64(p.flow)}
	if p.fuel != nil {
		p.fuel.Set(400_000)
	}
	if err := p.pick.CallWithStack(ctx, p.stack[:]); err != nil {
		t.Fatal(err)
	}
	return int32(p.stack[0])
}

// eachPolicy runs a test or benchmark for every bundled policy.
func eachPolicy(t testing.TB, do func(name string, wasm []byte)) {
	t.Helper()
	files, err := filepath.Glob("../../policies/*.wasm")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d policies: %v", len(files), err)
	}
	for _, f := range files {
		do(strings.TrimSuffix(filepath.Base(f), ".wasm"), read(t, f))
	}
}

func TestMeterPolicies(t *testing.T) {
	r := engine(t, wazero.NewRuntimeConfig())
	eachPolicy(t, func(name string, wasm []byte) {
		plain, metered := newPolicy(t, r, wasm, 100), newPolicy(t, r, meter(t, wasm, plenty), 100)
		for i := range 1000 {
			if want, got := plain.next(t), metered.next(t); got != want {
				t.Errorf("%s: pick %d is %d, want %d", name, i, got, want)
				return
			}
		}
	})
}

// BenchmarkPick is a pick from 64 backends: of the module as it is in
// plain-ns, metered in ns/op, setting the fuel included. The two take turns,
// and the figures are medians, since the machine has other things to do.
func BenchmarkPick(b *testing.B) {
	r := engine(b, wazero.NewRuntimeConfig())
	eachPolicy(b, func(name string, wasm []byte) {
		b.Run(name, func(b *testing.B) {
			turn := func(p *policy) float64 {
				const picks = 2000
				began := time.Now()
				for range picks {
					p.next(b)
				}
				return float64(time.Since(began).Nanoseconds()) / picks
			}
			variants := [2]*policy{newPolicy(b, r, wasm, 64), newPolicy(b, r, meter(b, wasm, plenty), 64)}
			var took [2][]float64
			for b.Loop() {
				for i, p := range variants {
					took[i] = append(took[i], turn(p))
				}
			}
			slices.Sort(took[0])
			slices.Sort(took[1])
			plain, metered := took[0][len(took[0])/2], took[1][len(took[1])/2]
			b.ReportMetric(plain, "plain-ns")
			b.ReportMetric(metered, "ns/op")
			b.ReportMetric(100*(metered-plain)/plain, "%")
		})
	})
}

// BenchmarkMeter is the rewrite itself, for the largest bundled policy.
func BenchmarkMeter(b *testing.B) {
	var largest []byte
	eachPolicy(b, func(_ string, wasm []byte) {
		if len(wasm) > len(largest) {
			largest = wasm
		}
	})
	b.SetBytes(int64(len(largest)))
	for b.Loop() {
		meter(b, largest, plenty)
	}
}

// BenchmarkSetFuel is what the host adds to a pick.
func BenchmarkSetFuel(b *testing.B) {
	m := start(b, engine(b, wazero.NewRuntimeConfig()), meter(b, []byte(preamble), plenty))
	g := m.ExportedGlobal(fuel.FuelExport).(api.MutableGlobal)
	b.ReportAllocs()
	for b.Loop() {
		g.Set(400_000)
	}
}
