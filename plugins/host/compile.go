package host

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caplance/caplance/core/plain"
	"github.com/caplance/caplance/plugins/abi"
	"github.com/caplance/caplance/plugins/fuel"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

func errTooLarge(size, limit int) error {
	return fmt.Errorf("module has %d bytes, more than the %d allowed: strip it (clang -Wl,--strip-all, Go -ldflags=-s) or raise max_module_bytes", size, limit)
}

// Policy is a compiled module that passed the checks of ABI v1. It may be used
// by several goroutines at once.
type Policy struct {
	name     string
	runtime  *Runtime
	compiled wazero.CompiledModule
}

// Name returns what the policy was called when it was compiled.
func (p *Policy) Name() string { return p.name }

// Close frees the machine code. The schedulers made from the policy must have
// been closed before.
func (p *Policy) Close(ctx context.Context) error { return p.compiled.Close(ctx) }

// Compile checks that wasm is a policy and compiles it; name is for messages.
// With CompileBundled it is the only way for a module into the runtime. Errors say
// what to change in the policy or its build.
func (r *Runtime) Compile(ctx context.Context, name string, wasm []byte) (*Policy, error) {
	return r.compile(ctx, name, wasm, r.compiler)
}

// CompileBundled is Compile for a module that is part of the program: it is
// compiled in this process, though the runtime may have a Compiler.
func (r *Runtime) CompileBundled(ctx context.Context, name string, wasm []byte) (*Policy, error) {
	return r.compile(ctx, name, wasm, nil)
}

// Warm does of Compile what takes long, which a runtime without a Compiler leaves to
// Compile. ctx cancels it.
//
// Errors are those of Compile.
func (r *Runtime) Warm(ctx context.Context, name string, wasm []byte) error {
	if r.compiler == nil {
		return nil
	}
	metered, err := r.meter(wasm)
	if err == nil {
		err = r.compiler.compile(ctx, metered, &r.limits)
	}
	if err != nil {
		return fmt.Errorf("policy %q: %w", name, err)
	}
	return nil
}

func (r *Runtime) compile(ctx context.Context, name string, wasm []byte, by *Compiler) (*Policy, error) {
	metered, err := r.meter(wasm)
	if err == nil && by != nil {
		err = by.compile(ctx, metered, &r.limits)
	}
	if err != nil {
		return nil, fmt.Errorf("policy %q: %w", name, err)
	}
	compiled, err := r.engine.CompileModule(ctx, metered)
	if r.compiler != nil {
		r.compiler.done(metered)
	}
	if err != nil {
		return nil, fmt.Errorf("policy %q: "+invalidModule, name, err)
	}
	if err := checkExports(compiled); err != nil {
		return nil, fmt.Errorf("policy %q: %w", name, errors.Join(err, compiled.Close(ctx)))
	}
	return &Policy{name: name, runtime: r, compiled: compiled}, nil
}

const invalidModule = "module is invalid, build it again for WebAssembly 2.0 without proposals beyond it: %w"

// meter checks a module as far as that goes without compiling it, and builds the
// counters into it.
func (r *Runtime) meter(wasm []byte) ([]byte, error) {
	if err := checkPreamble(wasm, r.limits.ModuleBytes); err != nil {
		return nil, err
	}
	o, err := readOutline(wasm)
	if err != nil {
		return nil, fmt.Errorf("%w: the file is cut short or damaged, build or copy it again", err)
	}
	if err := join(r.checkMemories(o), r.checkImports(o)); err != nil {
		return nil, err
	}
	metered, err := fuel.Meter(wasm, fuel.Options{Fuel: r.limits.StartFuel, Depth: r.limits.Depth, TableSize: maxTableSize})
	switch {
	case errors.Is(err, fuel.ErrHeavy):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf(invalidModule, err)
	}
	return metered, nil
}

func (r *Runtime) checkMemories(o *outline) error {
	if len(o.memories) > 1 {
		return fmt.Errorf("module has %d memories: a policy has exactly one", len(o.memories))
	}
	for _, m := range o.memories {
		const fix = "lower it (clang -Wl,--max-memory, AssemblyScript --maximumMemory) or raise max_memory_pages"
		limit := int64(r.limits.MemoryPages)
		if m.min > limit {
			return fmt.Errorf("memory starts with %d pages, more than the %d allowed: %s", m.min, limit, fix)
		}
		if m.max > limit {
			return fmt.Errorf("memory declares a maximum of %d pages, more than the %d allowed: %s", m.max, limit, fix)
		}
	}
	return nil
}

// checkImports names what the host does not offer, all of it at once.
func (r *Runtime) checkImports(o *outline) error {
	var errs []error
	for _, d := range o.imports {
		switch {
		case d.kind == kindMemory:
			errs = append(errs, fmt.Errorf("memory is imported from %q: define and export it (clang: without -Wl,--import-memory)", d.module))
		case d.kind != kindFunc || !r.offers(d.module, d.name):
			errs = append(errs, fmt.Errorf("import %s.%s (%s) is not offered: a policy imports nothing but wasi_snapshot_preview1 and env.abort functions", plain.Name(d.module), plain.Name(d.name), kindNames[d.kind]))
		}
	}
	return join(errs...)
}

// checkExports compares names and signatures with the ABI and reports every
// difference.
func checkExports(m wazero.CompiledModule) error {
	funcs := m.ExportedFunctions()
	// With the ABI's exports, too, it would trap: Go's runtime is started by _initialize of
	// a library alone.
	if funcs["_start"] != nil && (funcs[abi.Marker] == nil || funcs["_initialize"] == nil) {
		return errors.New("module is a command (it exports _start): build it as a library " +
			"(Go and TinyGo -buildmode=c-shared, clang -Wl,--no-entry, Rust crate-type cdylib)")
	}
	errs := misspelt(funcs)
	if _, ok := m.ExportedMemories()[abi.Memory]; !ok {
		errs = append(errs, fmt.Errorf("export %q is missing: export the memory under that name", abi.Memory))
	}
	for _, want := range abi.Exports {
		got := funcs[want.Name]
		switch {
		case got == nil && !want.Optional:
			errs = append(errs, fmt.Errorf("export %s is missing: export a function %s", want.Name, signature(want.Params, want.Results)))
		case got != nil && !(slices.Equal(got.ParamTypes(), want.Params) && slices.Equal(got.ResultTypes(), want.Results)):
			errs = append(errs, fmt.Errorf("export %s is %s: change it to %s", want.Name,
				signature(got.ParamTypes(), got.ResultTypes()), signature(want.Params, want.Results)))
		}
	}
	return join(errs...)
}

// misspelt returns what exports have the ABI's prefix and are none of it: an optional one
// would never be called.
func misspelt(funcs map[string]api.FunctionDefinition) (errs []error) {
	names := make([]string, len(abi.Exports))
	for i, e := range abi.Exports {
		names[i] = e.Name
	}
	for _, name := range slices.Sorted(maps.Keys(funcs)) {
		if strings.HasPrefix(name, abi.Prefix) && !slices.Contains(names, name) {
			errs = append(errs, fmt.Errorf("export %s is none of the ABI%s", plain.Name(name), plain.DidYouMean(name, names)))
		}
	}
	return errs
}

// join joins errors on one line, since the messages end up in a log.
func join(errs ...error) error {
	var all error
	for _, err := range errs {
		switch {
		case err == nil:
		case all == nil:
			all = err
		default:
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	return all
}

// signature renders a function type as the ABI's tables do: "(i64, i32) → i32".
func signature(params, results []api.ValueType) string {
	list := func(types []api.ValueType) string {
		names := make([]string, len(types))
		for i, t := range types {
			names[i] = api.ValueTypeName(t)
		}
		return strings.Join(names, ", ")
	}
	s := "(" + list(params) + ")"
	if len(results) > 0 {
		s += " → " + list(results)
	}
	return s
}
