package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/caplance/caplance/core/control"
)

// handover ends what runs on this machine, balancer or agent, and leaves its work
// to the kernel until the next start. Only agents have a name.
func handover(ctx context.Context, o *options, operands []string, w io.Writer) error {
	agent := o.set["agent"] || len(operands) > 0 || !o.set["server"] && exists(o.agent)
	balancer := o.set["server"] || len(operands) == 0 && !o.set["agent"] && exists(o.server)
	switch {
	case agent && balancer:
		return fmt.Errorf("balancer and agent both are here: say which one ends (-server %s or -agent %s)", o.server, o.agent)
	case agent:
		return handoverAgent(ctx, o, strings.Join(operands, ""), w)
	}
	return handoverBalancer(ctx, o, w)
}

func handoverBalancer(ctx context.Context, o *options, w io.Writer) error {
	report, err := control.Dial(o.server).Handover(ctx)
	if err != nil {
		return err
	}
	if o.output == "json" {
		return printJSON(w, report)
	}
	fmt.Fprintf(w, "the balancer ends; the kernel forwards by its last lookup tables until the next start, which takes over\n"+
		"services %d, backends %d, flows %d\n", report.Services, report.Backends, report.Flows)
	if report.Text != "" {
		fmt.Fprintln(w, report.Text)
	}
	return nil
}

func handoverAgent(ctx context.Context, o *options, name string, w io.Writer) error {
	report, err := control.HandoverAgent(ctx, o.agent, name)
	if err != nil {
		return err
	}
	if o.output == "json" {
		return printJSON(w, report)
	}
	fmt.Fprintf(w, "the agent ends; its flows stay for a while (registry.rejoin of the balancer), in which the next start takes over\n"+
		"state %s, VIPs %d, decap %s\n", report.State, report.VIPs, report.Decap)
	if report.Text != "" {
		fmt.Fprintln(w, report.Text)
	}
	return nil
}
