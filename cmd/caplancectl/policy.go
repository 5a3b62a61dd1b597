package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/control"
)

const policyHelp = `    policy swap SERVICE NAME|FILE    try it on the live pool, then let it take over
    policy rollback SERVICE          the one before the last swap again
    policy shadow SERVICE [NAME|FILE]  ask it, too, and only count (none: end that)
`

// errPolicyUsage is a wrong use of the policy command.
var errPolicyUsage = errors.New("usage: policy [swap SERVICE NAME|FILE | rollback SERVICE | shadow SERVICE [NAME|FILE]]")

// policy shows the policies or changes one.
func policy(ctx context.Context, o *options, operands []string, w io.Writer) error {
	c := control.Dial(o.server)
	if len(operands) == 0 {
		rows, err := c.Policies(ctx)
		if err != nil {
			return err
		}
		if o.output == "json" {
			return printJSON(w, rows)
		}
		return printPolicies(w, rows)
	}
	verb, args := operands[0], append(operands[1:], "", "")
	service, file := args[0], args[1]
	if strings.ContainsRune(file, '/') || strings.HasSuffix(file, ".wasm") {
		abs, err := filepath.Abs(file)
		if err != nil {
			return err
		}
		file = abs
	}
	var err error
	switch {
	case verb == "swap" && len(operands) == 3:
		err = c.Swap(ctx, service, file)
	case verb == "rollback" && len(operands) == 2:
		err = c.Rollback(ctx, service)
	case verb == "shadow" && len(operands) >= 2:
		err = c.Shadow(ctx, service, file)
	default:
		return errPolicyUsage
	}
	if err == nil && o.output == "json" {
		return printJSON(w, map[string]string{"done": verb})
	}
	if err == nil {
		_, err = fmt.Fprintln(w, "done")
	}
	return err
}

// printPolicies prints a line for each service, and below it what does not fit
// into one.
func printPolicies(w io.Writer, rows []api.PolicyRow) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row(t, "SERVICE", "POLICY", "STATE", "BY POLICY", "TABLE", "FALLBACK", "REJECT", "FAILURES", "ROLLBACK TO")
	for _, p := range rows {
		state := "ok"
		if p.Quarantined {
			state = "quarantined"
		}
		before := p.Previous
		if before == "" {
			before = "-"
		}
		row(t, p.Service, p.Policy, state, count(p.Picks["policy"]), count(p.Picks["table"]), count(p.Picks["fallback"]),
			count(p.Picks["reject"]), p.Failures, before)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, p := range rows {
		policyDetails(w, p)
	}
	return nil
}

func policyDetails(w io.Writer, p api.PolicyRow) {
	if t := p.Table; t != nil {
		fmt.Fprintf(w, "\n%s: table built in %s, %.2f%% of the slots moved without need\n", p.Service, seconds(t.Took), 100*t.Disruption)
		if t.Error != "" {
			fmt.Fprintf(w, "%s: no new table: %s\n", p.Service, t.Error)
		}
	}
	if len(p.Metrics) > 0 {
		fmt.Fprintf(w, "\n%s: metrics of the policy\n", p.Service)
		for _, name := range slices.Sorted(maps.Keys(p.Metrics)) {
			fmt.Fprintf(w, "  %-20s %d\n", name, p.Metrics[name])
		}
	}
	if s := p.Shadow; s != nil {
		fmt.Fprintf(w, "\n%s: shadow %s agreed on %d of %d flows (%.1f%%); it would have given\n", p.Service, s.Policy, s.Agreed, s.Asked,
			100*float64(s.Agreed)/float64(max(s.Asked, 1)))
		for _, name := range slices.Sorted(maps.Keys(s.Would)) {
			fmt.Fprintf(w, "  %-20s %d\n", name, s.Would[name])
		}
	}
	if p.LastError != "" {
		fmt.Fprintf(w, "\n%s: last failure: %s\n", p.Service, p.LastError)
	}
}
