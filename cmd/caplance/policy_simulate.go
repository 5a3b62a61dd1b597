package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/workbench/simulate"
	"github.com/caplance/caplance/plugins/workbench/trial"
)

// simulateOptions are the flags of simulate.
type simulateOptions struct {
	simulate.Options
	backends, flows, events, compare, html, config string
}

var simulateTool = tool{
	name: "simulate", takes: "POLICY", operands: 1,
	summary: "shares, disruption and imbalance over made-up flows",
	example: "  caplance policy simulate -backends b1=3,b2,b3 -flows zipf:1M mine.wasm\n" +
		"  caplance policy simulate -events 'kill b3@50%; add b11@70%; weight b1=3@80%' \\\n" +
		"      -compare maglev,least-connections -html report.html mine.wasm\n",
	flags: func(inv *invocation) {
		o := &simulateOptions{}
		inv.options = o
		inv.fs.StringVar(&o.backends, "backends", "10", "a number, or `NAMES` with weights: b1=3,b2,b3")
		inv.fs.StringVar(&o.flows, "flows", "uniform:100k", "`LOAD`: uniform:N, or zipf:N[:EXPONENT] with few clients that open many of them")
		inv.fs.StringVar(&o.events, "events", "", "`CHANGES` of the pool: kill, drain, add or weight BACKEND[=WEIGHT]@PERCENT%, with semicolons")
		inv.fs.IntVar(&o.Workers, "workers", 1, "workers that share the flows, each with its own instance")
		inv.fs.Uint64Var(&o.Seed, "seed", 1, "what all that is random comes from")
		inv.fs.StringVar(&o.compare, "compare", "", "`POLICIES` to simulate, too, with commas")
		inv.fs.StringVar(&o.html, "html", "", "write a page with plots to `FILE`")
		inv.fs.StringVar(&o.config, "config", "", "policy_config as `JSON`, of POLICY alone")
	},
	run: func(ctx context.Context, inv *invocation) error {
		o := inv.options.(*simulateOptions)
		if err := o.complete(); err != nil {
			return inv.usage(err)
		}
		rt, err := host.NewRuntime(ctx)
		if err != nil {
			return err
		}
		defer rt.Close(ctx)
		report, err := o.simulate(ctx, inv, rt)
		if err != nil {
			return err
		}
		if o.html != "" {
			if err := writePage(o.html, report); err != nil {
				return err
			}
		}
		return inv.show(report)
	},
}

func (o *simulateOptions) complete() (err error) {
	if o.Backends, err = trial.ParseBackends(o.backends); err != nil {
		return err
	}
	if o.Workload, err = trial.ParseWorkload(o.flows); err != nil {
		return err
	}
	if o.Events, err = simulate.ParseEvents(o.events); err != nil {
		return err
	}
	if o.Workers < 1 || o.Workers > 256 {
		return fmt.Errorf("-workers %d: make it 1 to 256", o.Workers)
	}
	if o.config != "" {
		if o.Config = []byte(o.config); !json.Valid(o.Config) {
			return errors.New("-config is not JSON")
		}
	}
	return nil
}

// simulate runs the policy and those it is compared with.
func (o *simulateOptions) simulate(ctx context.Context, inv *invocation, rt *host.Runtime) (*simulate.Report, error) {
	setup := []string{fmt.Sprintf("%d backends", len(o.Backends)), "flows " + o.flows}
	if o.events != "" {
		setup = append(setup, "events "+o.events)
	}
	report := &simulate.Report{Setup: strings.Join(append(setup, fmt.Sprintf("%d workers", o.Workers), fmt.Sprintf("seed %d", o.Seed)), ", ")}
	specs := []string{inv.operands[0]}
	if o.compare != "" {
		specs = append(specs, strings.Split(o.compare, ",")...)
	}
	bar := inv.progress()
	defer bar.clear()
	for i, spec := range specs {
		policy, err := load(ctx, rt, spec)
		if err != nil {
			return nil, err
		}
		opt := o.Options
		if i > 0 {
			opt.Config = nil
		}
		opt.Progress = func(done, total int) { bar.show(policy.Name(), i*total+done, len(specs)*total) }
		result, err := simulate.Run(ctx, policy, opt)
		if err != nil {
			return nil, fmt.Errorf("policy %q: %w", spec, err)
		}
		report.Results = append(report.Results, *result)
	}
	return report, nil
}

func writePage(file string, report *simulate.Report) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("page: %w", err)
	}
	return errors.Join(report.HTML(f), f.Close())
}
