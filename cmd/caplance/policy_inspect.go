package main

import (
	"context"

	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/workbench/inspect"
	"github.com/caplance/caplance/policies"
)

var inspectTool = tool{
	name: "inspect", takes: "POLICY", operands: 1,
	summary: "what a module is made of: exports, imports, slots, memory",
	example: "  caplance policy inspect mine.wasm\n  caplance policy inspect -o json hash\n",
	run: func(ctx context.Context, inv *invocation) error {
		name, wasm, err := policies.Load(inv.operands[0])
		if err != nil {
			return err
		}
		rt, err := host.NewRuntime(ctx)
		if err != nil {
			return err
		}
		defer rt.Close(ctx)
		report, err := inspect.Module(ctx, rt, name, wasm)
		if err != nil {
			return err
		}
		return inv.show(report)
	},
}
