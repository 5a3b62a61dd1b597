package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/caplance/caplance/plugins/workbench/check"
	"github.com/caplance/caplance/policies"
)

// checkOptions are the flags of check.
type checkOptions struct {
	check.Options
	cases, config, vectors string
	update                 bool
}

var checkTool = tool{
	name: "check", takes: "POLICY", operands: 1,
	summary: "lint it and try every rule of docs/policy-abi.md",
	example: "  caplance policy check mine.wasm\n  caplance policy check -o json mine.wasm >check.json   # in CI\n" +
		"  caplance policy check -case pool-2,leak -picks 50000 mine.wasm\n" +
		"  caplance policy check -vectors vectors.json -update mine.wasm   # take its picks as the expected ones\n",
	flags: func(inv *invocation) {
		o := &checkOptions{}
		inv.options = o
		inv.fs.StringVar(&o.cases, "case", "", "only these `CASES`, with commas: "+strings.Join(check.Names(), ", "))
		inv.fs.Uint64Var(&o.Seed, "seed", 1, "what the made-up flows come from")
		inv.fs.IntVar(&o.Picks, "picks", check.DefaultPicks, "how many picks must not leak memory")
		inv.fs.BoolVar(&o.Consistent, "consistent", false, "fail if the order of the pool matters")
		inv.fs.StringVar(&o.config, "config", "", "policy_config as `JSON`")
		inv.fs.StringVar(&o.vectors, "vectors", "", "`FILE` with picks that are expected")
		inv.fs.BoolVar(&o.update, "update", false, "write the policy's picks to the file of -vectors")
	},
	run: func(ctx context.Context, inv *invocation) error {
		o := inv.options.(*checkOptions)
		if err := o.complete(inv); err != nil {
			return err
		}
		if o.update {
			text, err := check.Update(ctx, o.Options)
			if err != nil {
				return err
			}
			return os.WriteFile(o.vectors, text, 0o644)
		}
		bar := inv.progress()
		o.Progress = bar.show
		report, err := check.Run(ctx, o.Options)
		bar.clear()
		if err != nil {
			return err
		}
		if err := inv.show(report); err != nil {
			return err
		}
		if report.Failed > 0 {
			return errFailed
		}
		return nil
	},
}

// complete turns what the command line says into options.
func (o *checkOptions) complete(inv *invocation) (err error) {
	o.Spec = inv.operands[0]
	if o.cases != "" {
		o.Cases = strings.Split(o.cases, ",")
	}
	if o.Picks < 2 {
		return inv.usage(fmt.Errorf("-picks %d is below 2", o.Picks))
	}
	if o.config != "" {
		if o.Config = []byte(o.config); !json.Valid(o.Config) {
			return inv.usage(errors.New("-config is not JSON"))
		}
	}
	if o.update && o.vectors == "" {
		return inv.usage(errors.New("-update needs -vectors FILE"))
	}
	if _, o.Wasm, err = policies.Load(o.Spec); err != nil {
		return err
	}
	if o.vectors == "" {
		return nil
	}
	text, err := os.ReadFile(o.vectors)
	if err != nil {
		return fmt.Errorf("vectors: %w", err)
	}
	o.Vectors, err = check.ParseVectors(o.vectors, text)
	return err
}
