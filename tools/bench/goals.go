package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// goal is how a system is to compare to another in one metric: the median of
// the rounds' ratios.
type goal struct {
	metric, ours, theirs string
	wanted               float64
	atMost               bool // wanted is the most, not the least
}

var goals = []goal{
	{metricStream, direct, none, 0.95, false},
	{metricStream, tunnel, none, 0.85, false},
	{metricStream, direct, natted, 1, false},
	{metricStream, tunnel, natted, 1, false},
	{metricStream, direct, proxy, 2.2, false},
	{metricStream, tunnel, proxy, 2.2, false},
	{metricSmall, direct, natted, 1.2, false},
	{metricSmall, tunnel, natted, 1.1, false},
	{metricConns, table, natted, 1.1, false},
	{metricConns, direct, natted, 0.95, false},
	{metricConns, tunnel, natted, 0.95, false},
	{metricConns, direct, proxy, 1.2, false},
	{metricConns, tunnel, proxy, 1.2, false},
	{metricRTT50, direct, none, 1.1, true},
	{metricRTT50, tunnel, none, 1.1, true},
	{metricRTT50, table, none, 1.1, true},
}

// met reports whether a ratio is as wanted, to the two digits that are printed.
func (g goal) met(ratio float64) bool {
	const half = 0.005
	if g.atMost {
		return ratio < g.wanted+half
	}
	return ratio >= g.wanted-half
}

// printGoals writes how far the systems that were measured are from the goals.
func (r *report) printGoals(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	header := "\nmetric\tsystems\tratio\tmin – max\twanted\t\n"
	for _, g := range goals {
		ours, theirs := r.find(g.ours, g.metric), r.find(g.theirs, g.metric)
		if ours == nil || theirs == nil {
			continue
		}
		ratios := ours.ratios(theirs)
		bound, verdict := "≥", "missed"
		if g.atMost {
			bound = "≤"
		}
		if g.met(median(ratios)) {
			verdict = "met"
		}
		fmt.Fprintf(t, "%s%s\t%s / %s\t%.2f\t%s\t%s %.2f\t%s\n", header, g.metric, g.ours, g.theirs, median(ratios), spread(ratios), bound, g.wanted, verdict)
		header = ""
	}
	t.Flush()
}
