// Package bench measures what a policy costs: a pick, its memory, its start.
//
//	row, err := bench.Measure(ctx, runtime, bench.Subject{Name: "hash", Wasm: wasm}, 64, bench.Options{Picks: 200_000})
//
// Times are those of this machine as it was just then. What compares policies
// is their ratio in one run, and fuel, which is the same everywhere.
package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/workbench/trial"
	"github.com/caplance/caplance/policies/reference"
)

// Sizes are the pools that are measured by default, in backends.
var Sizes = []int{2, 16, 64, 256, 1000}

// Options say how to measure.
type Options struct {
	Seed   uint64
	Picks  int    // per pool; 0 is DefaultPicks
	Config []byte // policy_config as JSON; nil is none
}

// DefaultPicks give a p99 of 1000 values.
const DefaultPicks = 100_000

// Row is a policy's cost at one size of the pool. Times are ns.
type Row struct {
	Policy   string  `json:"policy"`
	Backends int     `json:"backends"`
	P50      float64 `json:"p50_ns"` // of a pick, with all that the balancer does for it
	P99      float64 `json:"p99_ns"`
	Max      float64 `json:"max_ns"` // what else the machine did is part of it
	Allocs   float64 `json:"allocs"` // per pick
	Fuel     int64   `json:"fuel"`   // of the costliest pick
	Memory   uint32  `json:"memory"` // bytes, of an instance
	Compile  float64 `json:"compile_ns"`
	Start    float64 `json:"start_ns"`           // of an instance, with the pool
	Pool     float64 `json:"pool_ns"`            // of a change of the pool
	Table    float64 `json:"table_ns"`           // of filling the table, 0 without
	Native   bool    `json:"native,omitempty"`   // not a module
	Declined bool    `json:"declined,omitempty"` // it refused the pool: the lookup table picked
}

// Measure runs one policy, compiled anew, at one size.
//
// Errors: it does not compile or start, it failed in a pick.
func Measure(ctx context.Context, rt *host.Runtime, name string, wasm []byte, backends int, opt Options) (Row, error) {
	r := Row{Policy: name, Backends: backends}
	cfg := host.Config{Workers: 1, Seed: opt.Seed, ConfigJSON: opt.Config}
	pools := trial.NewPools(trial.Backends(backends))
	pool := pools.Build()

	begin := time.Now()
	policy, err := rt.Compile(ctx, name, wasm)
	if err != nil {
		return r, err
	}
	defer policy.Close(ctx)
	r.Compile = since(begin)

	begin = time.Now()
	s, err := policy.NewScheduler(ctx, cfg)
	if err != nil {
		return r, err
	}
	defer s.Close()
	s.SetPool(pool)
	r.Start = since(begin)

	if policy.HasTable() {
		begin = time.Now()
		t, err := policy.BuildTable(ctx, cfg, pool)
		if err != nil {
			return r, err
		}
		r.Table = since(begin)
		pool = pool.WithTable(t)
		s.SetPool(pool)
	}
	r.Declined = s.Refuses()
	fuel := func() { r.Fuel = max(r.Fuel, s.PickFuel()) }
	r.time(func(f *core.NewFlow) { s.Pick(f) }, fuel, opt)
	if err := s.Broken(); err != nil {
		return r, fmt.Errorf("policy %q: pool of %d backends: %w", name, backends, err)
	}
	r.Memory = s.MemorySize()

	pools.Backends[0].Weight = 2
	pool = pools.Build()
	begin = time.Now()
	s.SetPool(pool)
	r.Pool = since(begin)
	return r, nil
}

// Reference measures the reference implementation of a bundled policy, which is written to be
// plain, not to be fast; ok is false where there is none.
func Reference(name string, backends int, opt Options) (r Row, ok bool) {
	start := reference.For(name)
	if start == nil {
		return r, false
	}
	s := start(0, 1)
	r = Row{Policy: name + ", reference in Go", Backends: backends, Native: true}
	pools := trial.NewPools(trial.Backends(backends))
	s.SetPool(pools.Build())
	r.time(func(f *core.NewFlow) { s.Pick(f) }, func() {}, opt)
	return r, true
}

func since(begin time.Time) float64 { return float64(time.Since(begin)) }
