// Package host runs scheduling policies: it checks a WebAssembly module
// against ABI v1 (docs/policy-abi.md), compiles it once and gives every worker
// an instance of its own. It is the only importer of wazero.
//
//	rt, err := host.NewRuntime(ctx)
//	policy, err := rt.Compile(ctx, "hash", wasm)
//	sched, err := policy.NewScheduler(ctx, host.Config{Worker: 0, Workers: 2})
//	sched.SetPool(pool)
//	index, by := sched.Pick(&flow)
//
// A policy can be slow or wrong but it cannot stop traffic: whatever it does,
// Pick answers, from the pool's own lookup table if need be.
package host

import (
	"context"
	"errors"
	"fmt"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
)

// Runtime is the process's WebAssembly engine. It may be used by several
// goroutines at once.
type Runtime struct {
	engine   wazero.Runtime
	limits   Limits
	compiler *Compiler // nil: modules are compiled here
	cache    wazero.CompilationCache
}

// NewRuntime starts an engine with the default limits.
func NewRuntime(ctx context.Context) (*Runtime, error) {
	return NewRuntimeWith(ctx, DefaultLimits())
}

// NewRuntimeWith starts an engine with nothing but the imports that language
// runtimes insist on: WASI preview 1 without files, network, real clock or
// real randomness, and AssemblyScript's abort. An impossible limit is an error
// that names its key.
//
// It does not close modules when a context ends: that costs 320 ns and three
// allocations a call, and fuel does better.
func NewRuntimeWith(ctx context.Context, l Limits) (*Runtime, error) {
	return newRuntime(ctx, l, nil)
}

func engineConfig(pages uint32) wazero.RuntimeConfig {
	// Reserve the maximum at once, so that a growing memory does not move
	// under the views that the hot path holds.
	return wazero.NewRuntimeConfig().WithMemoryLimitPages(pages).WithMemoryCapacityFromMax(true)
}

// newRuntime starts an engine that belongs to a cache, or to itself.
func newRuntime(ctx context.Context, l Limits, cache wazero.CompilationCache) (*Runtime, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	config := engineConfig(l.MemoryPages)
	if cache != nil {
		config = config.WithCompilationCache(cache)
	}
	r := &Runtime{limits: l, cache: cache, engine: wazero.NewRuntimeWithConfig(ctx, config)}
	if err := r.offer(ctx); err != nil {
		return nil, fmt.Errorf("policy runtime: %w", err)
	}
	return r, nil
}

func (r *Runtime) offer(ctx context.Context) error {
	ctx = charged(ctx)
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, r.engine); err != nil {
		return err
	}
	_, err := r.engine.NewHostModuleBuilder("env").
		NewFunctionBuilder().WithFunc(abort).Export("abort").
		Instantiate(ctx)
	return err
}

// offers reports whether a guest may import the function.
func (r *Runtime) offers(module, name string) bool {
	m := r.engine.Module(module)
	return m != nil && m.ExportedFunctionDefinitions()[name] != nil
}

// Close frees the engine and every policy and instance made by it; the
// schedulers must have been closed before.
func (r *Runtime) Close(ctx context.Context) error {
	err := r.engine.Close(ctx)
	if r.cache != nil {
		err = errors.Join(err, r.cache.Close(ctx))
	}
	if err != nil {
		return fmt.Errorf("policy runtime: %w", err)
	}
	return nil
}
