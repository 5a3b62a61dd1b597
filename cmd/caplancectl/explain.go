package main

import (
	"context"
	"fmt"
	"io"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/control"
)

// explain prints where one flow's packets go.
func explain(ctx context.Context, o *options, operands []string, w io.Writer) error {
	id, err := api.ParseFlowID(operands[0], operands[1])
	if err != nil {
		return err
	}
	return show(func(ctx context.Context, c *control.Client, _ *options) (any, error) { return c.Explain(ctx, id) })(ctx, o, nil, w)
}

func explanation(w io.Writer, e api.Explanation) {
	row(w, "client", e.Src)
	row(w, "vip", fmt.Sprintf("%v/%s", e.Dst, e.Proto))
	if e.Service == "" {
		row(w, "service", "none: "+e.Decision)
		return
	}
	row(w, "service", e.Service)
	if f := e.Flow; f != nil {
		row(w, "flow", fmt.Sprintf("%s, in %s", f.State, where(f.Kernel)))
		row(w, "placed by", fmt.Sprintf("%s, %s ago", f.Rule, seconds(f.Age)))
		row(w, "last packet", seconds(f.Idle)+" ago")
		row(w, "packets", count(f.Packets))
		row(w, "bytes", size(f.Bytes))
	} else {
		row(w, "flow", "not known")
		row(w, "decision", e.Decision)
	}
	if e.Backend != "" {
		row(w, "backend", e.Backend)
	}
	if e.Path != "" {
		row(w, "path", e.Path)
	}
}

func where(kernel bool) string {
	if kernel {
		return "kernel"
	}
	return "userspace"
}
