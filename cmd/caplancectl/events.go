package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/control"
)

// pollEvents is how often events -f asks for new ones.
const pollEvents = 500 * time.Millisecond

// events prints what happened last, and with -f what happens, until it is interrupted.
func events(ctx context.Context, o *options, _ []string, w io.Writer) error {
	c := control.Dial(o.server)
	rows, err := c.Events(ctx, o.limit)
	if err != nil {
		return err
	}
	if !o.follow {
		if o.output == "json" {
			return printJSON(w, rows)
		}
		return printTable(w, rows)
	}
	tick := time.NewTicker(pollEvents)
	defer tick.Stop()
	for last := uint64(0); ; {
		for _, e := range rows {
			if err := printEvent(w, &e, o.output); err != nil {
				return err
			}
			last = e.Seq
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		once, cancel := context.WithTimeout(ctx, defaultTimeout)
		rows, err = c.EventsAfter(once, 0, last)
		cancel()
		if err != nil { // it starts again, and goes on where it was
			rows = nil
		}
	}
}

// printEvent prints one, on a line.
func printEvent(w io.Writer, e *api.EventRow, output string) error {
	if output == "json" {
		return json.NewEncoder(w).Encode(e)
	}
	_, err := fmt.Fprintf(w, "%s  %-5s %s  %s\n", e.Time.Local().Format("01-02 15:04:05.000"), e.Level, e.Text, e.About)
	return err
}
