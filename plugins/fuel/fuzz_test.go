package fuel_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caplance/caplance/plugins/fuel"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// FuzzMeter gives Meter modules and what is left of modules. It must not
// panic; the engine must accept the metered module exactly if it accepts the
// module; and what does not run out of a budget must end as it did before.
func FuzzMeter(f *testing.F) {
	for _, pattern := range []string{"testdata/*.wasm", "../../policies/*.wasm", "../host/testdata/*.wasm"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, path := range files {
			f.Add(read(f, path))
		}
	}
	r := engine(f, wazero.NewRuntimeConfigInterpreter().WithDebugInfoEnabled(false))
	f.Fuzz(func(t *testing.T, wasm []byte) {
		metered, err := fuel.Meter(wasm, fuel.Options{Fuel: 20_000, Depth: 50, TableSize: 1 << 16})
		if err != nil {
			for _, kind := range []error{fuel.ErrMalformed, fuel.ErrUnsupported, fuel.ErrHeavy, fuel.ErrReserved} {
				if errors.Is(err, kind) {
					return // The engine might exhaust the memory on what we refuse.
				}
			}
			t.Fatalf("error %v is of no kind", err)
		}
		plain, before := r.CompileModule(ctx, withoutCustom(t, wasm))
		same, after := r.CompileModule(ctx, metered)
		if (before == nil) != (after == nil) {
			t.Fatalf("engine says %v of the module, %v of the metered one", before, after)
		}
		if before != nil || len(plain.ImportedFunctions()) > 0 {
			return
		}
		defer plain.Close(ctx)
		defer same.Close(ctx)
		compare(t, r, plain, same)
	})
}

// withoutCustom drops the sections that Meter drops, whose errors it ignores.
func withoutCustom(t *testing.T, wasm []byte) []byte {
	t.Helper()
	out := bytes.Clone(wasm[:8])
	for rest := wasm[8:]; len(rest) > 0; {
		size, n := uint64(0), 1
		for shift := 0; ; shift += 7 {
			size |= uint64(rest[n]&0x7f) << shift
			if n++; rest[n-1] < 0x80 {
				break
			}
		}
		end := n + int(size)
		if rest[0] != 0 {
			out = append(out, rest[:end]...)
		}
		rest = rest[end:]
	}
	return out
}

// compare calls every function without parameters that need thought.
func compare(t *testing.T, r wazero.Runtime, plain, metered wazero.CompiledModule) {
	config := wazero.NewModuleConfig().WithName("").WithStartFunctions()
	b, err := r.InstantiateModule(ctx, metered, config)
	if err != nil {
		return // a trap, perhaps for want of fuel
	}
	defer b.Close(ctx)
	a, err := r.InstantiateModule(ctx, plain, config)
	if err != nil {
		t.Fatalf("module does not start: %v", err)
	}
	defer a.Close(ctx)
	for name, def := range plain.ExportedFunctions() {
		params := make([]uint64, len(def.ParamTypes()))
		for i, p := range def.ParamTypes() {
			if params[i] = uint64(i + 1); p != api.ValueTypeI32 && p != api.ValueTypeI64 {
				params[i] = 0
			}
		}
		if strings.Contains(string(def.ParamTypes())+string(def.ResultTypes()), "\x7b") {
			continue // vectors take two values, the engine's API gives no help
		}
		b.ExportedGlobal(fuel.FuelExport).(api.MutableGlobal).Set(20_000)
		b.ExportedGlobal(fuel.DepthExport).(api.MutableGlobal).Set(50)
		got := outcome(b, name, params...)
		if budget(b, fuel.FuelExport) < 0 || budget(b, fuel.DepthExport) < 0 {
			return // the state of the two may differ from here on
		}
		if want := outcome(a, name, params...); got != want {
			t.Fatalf("%q gives %s when metered, %s before", name, got, want)
		}
	}
	for name := range plain.ExportedMemories() {
		x, _ := a.ExportedMemory(name).Read(0, a.ExportedMemory(name).Size())
		y, _ := b.ExportedMemory(name).Read(0, b.ExportedMemory(name).Size())
		if !bytes.Equal(x, y) {
			t.Fatalf("memory %q differs", name)
		}
	}
}
