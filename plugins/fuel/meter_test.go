package fuel_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/plugins/fuel"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

var ctx = context.Background()

// funcref is api.ValueTypeFuncref, which wazero keeps to itself.
const funcref api.ValueType = 0x70

// plenty is enough for any test that ends by itself.
var plenty = fuel.Options{Fuel: 1 << 40, Depth: 1000, TableSize: 100}

func read(t testing.TB, path string) []byte {
	t.Helper()
	wasm, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return wasm
}

func meter(t testing.TB, wasm []byte, opt fuel.Options) []byte {
	t.Helper()
	metered, err := fuel.Meter(wasm, opt)
	if err != nil {
		t.Fatal(err)
	}
	return metered
}

// engine returns a runtime with the imports of testdata.
func engine(t testing.TB, config wazero.RuntimeConfig) wazero.Runtime {
	t.Helper()
	r := wazero.NewRuntimeWithConfig(ctx, config.WithMemoryLimitPages(256))
	t.Cleanup(func() { r.Close(ctx) })
	// A module in WebAssembly is the only way to offer a global:
	// (module (global (export "base") i32 (i32.const 40)))
	env := "\x00asm\x01\x00\x00\x00\x06\x06\x01\x7f\x00\x41\x28\x0b\x07\x08\x01\x04base\x03\x00"
	if _, err := r.InstantiateWithConfig(ctx, []byte(env), wazero.NewModuleConfig().WithName("env")); err != nil {
		t.Fatal(err)
	}
	return r
}

func start(t testing.TB, r wazero.Runtime, wasm []byte) api.Module {
	t.Helper()
	m, err := r.InstantiateWithConfig(ctx, wasm, wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// budget reads one of the globals.
func budget(m api.Module, name string) int64 { return int64(m.ExportedGlobal(name).Get()) }

// outcome returns a call's results or its trap, without the stack.
func outcome(m api.Module, name string, params ...uint64) string {
	results, err := m.ExportedFunction(name).Call(ctx, params...)
	if err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		return first
	}
	out := fmt.Sprint(results)
	if slices.Contains(m.ExportedFunction(name).Definition().ResultTypes(), funcref) {
		out = fmt.Sprint(results[0] != 0) // a pointer
	}
	return out
}

// A metered module does what the module did, costs fuel, and gives all of its
// depth back.
func TestMeterChangesNothing(t *testing.T) {
	for _, config := range []wazero.RuntimeConfig{wazero.NewRuntimeConfigCompiler(), wazero.NewRuntimeConfigInterpreter()} {
		r := engine(t, config)
		for _, name := range []string{"features", "start"} {
			wasm := read(t, "testdata/"+name+".wasm")
			plain, metered := start(t, r, wasm), start(t, r, meter(t, wasm, plenty))
			for fn := range plain.ExportedFunctionDefinitions() {
				for n := range uint64(10) {
					before := budget(metered, fuel.FuelExport)
					want, got := outcome(plain, fn, n), outcome(metered, fn, n)
					if got != want {
						t.Errorf("%s: %s(%d) is %s, want %s", name, fn, n, got, want)
					}
					if budget(metered, fuel.FuelExport) >= before {
						t.Errorf("%s: %s(%d) is free", name, fn, n)
					}
					trapped := strings.Contains(want, "wasm error")
					if d := budget(metered, fuel.DepthExport); d != plenty.Depth && !trapped {
						t.Fatalf("%s: %s(%d) leaves a depth of %d, want %d", name, fn, n, d, plenty.Depth)
					}
					if trapped { // it may have been anywhere
						metered.ExportedGlobal(fuel.DepthExport).(api.MutableGlobal).Set(uint64(plenty.Depth))
					}
				}
			}
		}
	}
}

// Modules with hardly anything in them get what they lack.
func TestMeterSmallest(t *testing.T) {
	r := engine(t, wazero.NewRuntimeConfig())
	for _, name := range []string{"empty", "bare"} {
		m := start(t, r, meter(t, read(t, "testdata/"+name+".wasm"), plenty))
		if got := budget(m, fuel.FuelExport); got != plenty.Fuel {
			t.Errorf("%s has %d fuel, want %d", name, got, plenty.Fuel)
		}
	}
}

// Whatever takes too much is stopped, by the budget that its name tells.
func TestMeterStops(t *testing.T) {
	const enough = 1_000_000
	r := engine(t, wazero.NewRuntimeConfig())
	wasm := meter(t, read(t, "testdata/runaway.wasm"), fuel.Options{Fuel: enough, Depth: 1000, TableSize: 100})
	compiled, err := r.CompileModule(ctx, wasm)
	if err != nil {
		t.Fatal(err)
	}
	for name := range compiled.ExportedFunctions() {
		t.Run(name, func(t *testing.T) {
			m, err := r.InstantiateModule(ctx, compiled, wazero.NewModuleConfig().WithName(""))
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close(ctx)
			fn := m.ExportedFunction(name)
			began := time.Now()
			if _, err := fn.Call(ctx); err == nil || !strings.Contains(err.Error(), "unreachable") {
				t.Errorf("call ends with %v, want a trap", err)
			}
			t.Logf("stopped after %v", time.Since(began))
			left := budget(m, fuel.FuelExport)
			if stopped := left < 0; stopped != strings.HasPrefix(name, "fuel") {
				t.Errorf("%d fuel is left", left)
			}
			if stopped := budget(m, fuel.DepthExport) < 0; stopped != strings.HasPrefix(name, "depth") {
				t.Errorf("depth of %d is left", budget(m, fuel.DepthExport))
			}
		})
	}
}

// An if's second half does not pay with what the first half was charged, a
// state machine only for the states that it was in.
func TestMeterPaysForStates(t *testing.T) {
	m := start(t, engine(t, wazero.NewRuntimeConfig()), meter(t, read(t, "testdata/features.wasm"), plenty))
	before := budget(m, fuel.FuelExport)
	steps := outcome(m, "states", 1)
	if used := before - budget(m, fuel.FuelExport); used > 3000 {
		t.Errorf("states(1) = %s took %d units, want less than 3000", steps, used)
	}
}

func TestMeterBoundsTables(t *testing.T) {
	wasm := read(t, "testdata/features.wasm")
	m := start(t, engine(t, wazero.NewRuntimeConfig()), meter(t, wasm, fuel.Options{Fuel: math.MaxInt32, Depth: 9, TableSize: 8}))
	for range 3 {
		outcome(m, "tables", 1) // grows by 2, from 4
	}
	if got := outcome(m, "tables", 1); got != "[10]" {
		t.Errorf("table ends up with %s, want [10]: 8 entries, and 2 from the rest", got)
	}
	if _, err := fuel.Meter(wasm, fuel.Options{TableSize: 7}); err == nil || !strings.Contains(err.Error(), "8 entries, more than the 7 allowed") {
		t.Errorf("a table beyond the limit gives %v", err)
	}
}

// Function names stay, and so do those in the stack of a trap.
func TestMeterKeepsNames(t *testing.T) {
	m := start(t, engine(t, wazero.NewRuntimeConfig()), meter(t, read(t, "testdata/runaway.wasm"), fuel.Options{Fuel: 1e6, Depth: 9, TableSize: 100}))
	_, err := m.ExportedFunction("depth: two by turns").Call(ctx)
	if err == nil || !strings.Contains(err.Error(), ".pong") {
		t.Errorf("error %v does not name the function pong", err)
	}
}

// A stack with names that would reach for the terminal has numbers instead.
func TestMeterDropsUnprintableNames(t *testing.T) {
	wasm := bytes.ReplaceAll(read(t, "testdata/runaway.wasm"), []byte("pong"), []byte("\x1b[2J"))
	m := start(t, engine(t, wazero.NewRuntimeConfig()), meter(t, wasm, fuel.Options{Fuel: 1e6, Depth: 9, TableSize: 100}))
	_, err := m.ExportedFunction("depth: two by turns").Call(ctx)
	if err == nil || strings.Contains(err.Error(), "\x1b") || !strings.Contains(err.Error(), "unreachable") {
		t.Errorf("error is %q, want a trap without control characters", err)
	}
}
