package main

import (
	"context"
	"fmt"
	"io"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/control"
)

// reload makes the balancer's file hold, or with -n asks what that would change.
// A refusal shows the changes, too.
func reload(ctx context.Context, o *options, _ []string, w io.Writer) error {
	rows, err := control.Dial(o.server).Reload(ctx, o.dryRun)
	if o.output == "json" {
		if err == nil || len(rows) > 0 {
			if err := printJSON(w, rows); err != nil {
				return err
			}
		}
		return err
	}
	printChanges(w, rows)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, outcome(len(rows), o.dryRun))
	return err
}

func outcome(changes int, dryRun bool) string {
	switch {
	case changes == 0:
		return "the file says what holds already"
	case dryRun:
		return fmt.Sprintf("changes: %d; nothing was changed (dry run)", changes)
	}
	return fmt.Sprintf("changes: %d; they hold now", changes)
}

// printChanges prints changes as a diff.
func printChanges(w io.Writer, rows []api.ChangeRow) {
	for _, r := range rows {
		note := ""
		if r.Note != "" {
			note = "  # " + r.Note
		}
		switch {
		case r.From == "":
			fmt.Fprintf(w, "+ %s: %s%s\n", r.Key, r.To, note)
		case r.To == "":
			fmt.Fprintf(w, "- %s: %s%s\n", r.Key, r.From, note)
		default:
			fmt.Fprintf(w, "- %s = %s\n+ %s = %s%s\n", r.Key, r.From, r.Key, r.To, note)
		}
	}
}
