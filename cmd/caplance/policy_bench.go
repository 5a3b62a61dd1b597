package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/workbench/bench"
	"github.com/caplance/caplance/policies"
)

// benchOptions are the flags of bench.
type benchOptions struct {
	bench.Options
	sizes, beside, config string
}

var benchTool = tool{
	name: "bench", takes: "POLICY", operands: 1,
	summary: "ns/pick, allocations, fuel, memory and start time",
	example: "  caplance policy bench mine.wasm\n  caplance policy bench -backends 64 -beside hash,least-connections mine.wasm\n" +
		"  caplance policy bench -beside none -o json mine.wasm\n",
	flags: func(inv *invocation) {
		o := &benchOptions{}
		inv.options = o
		inv.fs.StringVar(&o.sizes, "backends", "2,16,64,256,1000", "`SIZES` of the pool, with commas")
		inv.fs.StringVar(&o.beside, "beside", "all", "`POLICIES` to measure, too, with commas: all bundled ones, or none")
		inv.fs.IntVar(&o.Picks, "picks", bench.DefaultPicks, "picks to time for each line")
		inv.fs.Uint64Var(&o.Seed, "seed", 1, "what the made-up flows come from")
		inv.fs.StringVar(&o.config, "config", "", "policy_config as `JSON`, of POLICY alone")
	},
	run: func(ctx context.Context, inv *invocation) error {
		o := inv.options.(*benchOptions)
		sizes, subjects, err := o.complete(inv)
		if err != nil {
			return err
		}
		rt, err := host.NewRuntime(ctx)
		if err != nil {
			return err
		}
		defer rt.Close(ctx)
		report, bar := &bench.Report{}, inv.progress()
		for i, size := range sizes {
			for j, s := range subjects {
				bar.show(fmt.Sprintf("%s at %d", s.name, size), i*len(subjects)+j, len(sizes)*len(subjects))
				opt := o.Options
				if j > 0 {
					opt.Config = nil
				}
				row, err := bench.Measure(ctx, rt, s.name, s.wasm, size, opt)
				if err != nil {
					bar.clear()
					return err
				}
				report.Rows = append(report.Rows, row)
				if native, ok := bench.Reference(inv.operands[0], size, opt); ok && j == 0 {
					report.Rows = append(report.Rows, native)
				}
				if err := ctx.Err(); err != nil {
					bar.clear()
					return context.Cause(ctx)
				}
			}
		}
		bar.clear()
		return inv.show(report)
	},
}

// subject is one policy to measure.
type subject struct {
	name string
	wasm []byte
}

func (o *benchOptions) complete(inv *invocation) (sizes []int, subjects []subject, err error) {
	for word := range strings.SplitSeq(o.sizes, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 || n > 4096 {
			return nil, nil, inv.usage(fmt.Errorf("-backends: %q is no number from 1 to 4096", word))
		}
		sizes = append(sizes, n)
	}
	if o.Picks < 1000 {
		return nil, nil, inv.usage(fmt.Errorf("-picks %d is below 1000", o.Picks))
	}
	if o.config != "" {
		if o.Config = []byte(o.config); !json.Valid(o.Config) {
			return nil, nil, inv.usage(errors.New("-config is not JSON"))
		}
	}
	specs := []string{inv.operands[0]}
	switch o.beside {
	case "none", "":
	case "all":
		specs = append(specs, policies.Names()...)
	default:
		specs = append(specs, strings.Split(o.beside, ",")...)
	}
	seen := map[string]bool{}
	for _, spec := range specs {
		if seen[spec] {
			continue
		}
		seen[spec] = true
		name, wasm, err := policies.Load(spec)
		if err != nil {
			return nil, nil, err
		}
		subjects = append(subjects, subject{name, wasm})
	}
	return sizes, subjects, nil
}
