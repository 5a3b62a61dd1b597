package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/caplance/caplance/core/control"
)

// explain says where one flow's packets go.
func explain(ctx context.Context, o *options, operands []string, w io.Writer) error {
	if len(operands) != 2 {
		return errors.New("which flow? explain SRC:PORT VIP:PORT/tcp")
	}
	id, err := control.ParseFlowID(operands[0], operands[1])
	if err != nil {
		return err
	}
	return show(func(ctx context.Context, c *control.Client, _ *options) (any, error) { return c.Explain(ctx, id) })(ctx, o, nil, w)
}

func explanation(w io.Writer, e control.Explanation) {
	row(w, "client", e.Src)
	row(w, "vip", fmt.Sprintf("%v/%s", e.Dst, e.Proto))
	if e.Service == "" {
		row(w, "service", "none has this VIP, protocol and port: the packet is this machine's own")
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
		row(w, "first packet", e.Fresh)
	}
	if e.Backend != "" {
		row(w, "backend", e.Backend)
	}
	if e.Way != "" {
		row(w, "way", e.Way)
	}
}

func where(kernel bool) string {
	if kernel {
		return "kernel"
	}
	return "userspace"
}

// handover ends the balancer and leaves its flows to the kernel.
func handover(ctx context.Context, o *options, _ []string, w io.Writer) error {
	if err := control.Dial(o.server).Handover(ctx); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, "the balancer ends; the kernel forwards by its last lookup tables until the next start")
	return err
}
