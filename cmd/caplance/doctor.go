package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"text/tabwriter"

	"github.com/caplance/caplance/core/doctor"
)

// examine prints what the doctor found; what is needed and lacks is an error.
func examine(_ context.Context, e env) error {
	fs := flag.NewFlagSet("doctor", flag.ContinueOnError)
	output := fs.String("o", "table", "how to print: `FORMAT` table or json")
	if err := flags(e, fs); err != nil {
		return err
	}
	if err := checkOutput(e, fs, *output); err != nil {
		return err
	}
	list, err := doctor.Examine()
	if err != nil {
		return err
	}
	sound := true
	for _, f := range list {
		sound = sound && (f.OK || !f.Needed)
	}
	if *output == "json" {
		enc := json.NewEncoder(e.stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(list)
	} else {
		err = printFindings(e, list)
	}
	if err == nil && !sound {
		err = errors.New("something is missing that nothing works without")
	}
	return err
}

func printFindings(e env, list []doctor.Finding) error {
	t := tabwriter.NewWriter(e.stdout, 0, 8, 2, ' ', 0)
	for _, f := range list {
		word := "ok"
		switch {
		case !f.OK && f.Needed:
			word = "MISSING"
		case !f.OK:
			word = "missing"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", word, f.What, f.Detail)
		if f.Without != "" {
			fmt.Fprintf(t, "\t\t%s\n", f.Without)
		}
	}
	return t.Flush()
}
