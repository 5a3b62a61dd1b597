package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
)

// report collects samples and prints what they come to.
type report struct {
	progress io.Writer
	last     string
	series   []*series
}

// series are the samples of one metric of one system, one a round.
type series struct {
	system, metric, unit string
	samples              []float64
	base                 *series // of the ratio, nil for none
}

func newReport(progress io.Writer) *report { return &report{progress: progress} }

// measure starts a series. With a base, whose samples are taken in the same
// rounds, it is reported as a ratio to it, too.
func (r *report) measure(system, metric, unit string, base *series) *series {
	s := &series{system: system, metric: metric, unit: unit, base: base}
	r.series = append(r.series, s)
	return s
}

func (s *series) add(v float64) { s.samples = append(s.samples, v) }

// step shows how far the measurements have come, a line for each.
func (r *report) step(what string, round, rounds int) {
	if what != r.last {
		fmt.Fprintf(r.progress, "%s", map[bool]string{true: "", false: "\n"}[r.last == ""])
		fmt.Fprintf(r.progress, "%-50s", what)
		r.last = what
	}
	fmt.Fprintf(r.progress, " %d/%d", round, rounds)
}

// ratio is the median of the rounds' ratios: what changes from round to round
// on a busy machine changes both.
func (s *series) ratio() *float64 {
	if s.base == nil {
		return nil
	}
	ratios := make([]float64, min(len(s.samples), len(s.base.samples)))
	for i := range ratios {
		ratios[i] = s.samples[i] / s.base.samples[i]
	}
	m := median(ratios)
	return &m
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// print writes the table, with the spread of the samples.
func (r *report) print(w io.Writer) {
	fmt.Fprintln(r.progress)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nmetric\tsystem\tmedian\tmin – max\tunit\tratio")
	for _, s := range r.series {
		ratio := ""
		if v := s.ratio(); v != nil {
			ratio = fmt.Sprintf("%.2f", *v)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s – %s\t%s\t%s\n", s.metric, s.system, number(median(s.samples)),
			number(slices.Min(s.samples)), number(slices.Max(s.samples)), s.unit, ratio)
	}
	t.Flush()
}

// number renders a value with three digits or all that are before the point.
func number(v float64) string {
	switch {
	case v >= 100 || v <= -100 || v == float64(int64(v)):
		return fmt.Sprintf("%.0f", v)
	case v >= 10 || v <= -10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// row is one series in the file.
type row struct {
	System string   `json:"system"`
	Metric string   `json:"metric"`
	Unit   string   `json:"unit"`
	Median float64  `json:"median"`
	Ratio  *float64 `json:"ratio"` // to the baseline's, null for none
}

func (r *report) write(file string) error {
	rows := []row{}
	for _, s := range r.series {
		rows = append(rows, row{s.system, s.metric, s.unit, median(s.samples), s.ratio()})
	}
	data, err := json.MarshalIndent(rows, "", "  ")
	if err == nil {
		err = os.WriteFile(file, append(data, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("results: %w", err)
	}
	return nil
}
