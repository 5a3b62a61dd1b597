package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// result is the figures of one case. Those that were not taken are zero.
type result struct {
	shape
	start, agents   time.Duration
	list            time.Duration // of all backends
	active, visible time.Duration // one more backend: to its agent, in the list
	placed, again   time.Duration
	restart, back   time.Duration // after a kill: the start, and until all agents are active
	cpu             float64       // of one CPU, idle
	bytes           float64       // a second, on the link, idle
	cpuAgents       time.Duration
	resident, peak  [2]int64 // bytes, empty and with all agents
	kernel          [2]int64
}

// report prints the cases side by side.
func report(out io.Writer, results []*result) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	defer w.Flush()
	row := func(name string, cell func(r *result) string) {
		fmt.Fprint(w, name, "\t")
		for _, r := range results {
			fmt.Fprint(w, cell(r), "\t")
		}
		fmt.Fprintln(w)
	}
	took := func(d time.Duration) string {
		if d == 0 {
			return "–"
		}
		return d.Round(time.Millisecond).String()
	}
	size := func(n int64) string { return fmt.Sprintf("%d MB", n>>20) }
	row("case", func(r *result) string { return r.name })
	row("services × backends", func(r *result) string {
		if r.backends == 0 {
			return fmt.Sprint(r.services)
		}
		return fmt.Sprintf("%d × %d", r.services, r.members())
	})
	row("start", func(r *result) string { return took(r.start) })
	row("RSS, peak, kernel, empty", func(r *result) string {
		return size(r.resident[0]) + ", " + size(r.peak[0]) + ", " + size(r.kernel[0])
	})
	row("all agents active", func(r *result) string { return took(r.agents) })
	row("CPU time for that", func(r *result) string { return took(r.cpuAgents) })
	row("RSS, peak, kernel, full", func(r *result) string {
		return size(r.resident[1]) + ", " + size(r.peak[1]) + ", " + size(r.kernel[1])
	})
	row("idle CPU", func(r *result) string { return fmt.Sprintf("%.1f %%", 100*r.cpu) })
	row("idle, on the link", func(r *result) string { return fmt.Sprintf("%.0f kB/s", r.bytes/1000) })
	row("a list of all", func(r *result) string { return took(r.list) })
	row("one more is active", func(r *result) string { return took(r.active) })
	row("and listed", func(r *result) string { return took(r.visible) })
	row("in the lookup tables", func(r *result) string { return took(r.placed) })
	row("reconnect of half", func(r *result) string { return took(r.again) })
	row("start after a kill", func(r *result) string { return took(r.restart) })
	row("until all are back", func(r *result) string { return took(r.back) })
}
