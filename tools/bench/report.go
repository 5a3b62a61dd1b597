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

// mark shows what is under way: a line for each task, a word for each part.
func (r *report) mark(task, part string) {
	if task != r.last {
		if r.last != "" {
			fmt.Fprintln(r.progress)
		}
		fmt.Fprintf(r.progress, "%-34s", task)
		r.last = task
	}
	fmt.Fprint(r.progress, " ", part)
}

// step marks the rounds of a task.
func (r *report) step(task string, round, rounds int) {
	r.mark(task, fmt.Sprintf("%d/%d", round, rounds))
}

// note writes a line of its own.
func (r *report) note(line string) {
	fmt.Fprintf(r.progress, "\n%s", line)
	r.last = line
}

// find returns the series of a system's metric, nil when it was not measured.
func (r *report) find(system, metric string) *series {
	i := slices.IndexFunc(r.series, func(s *series) bool { return s.system == system && s.metric == metric })
	if i < 0 {
		return nil
	}
	return r.series[i]
}

// ratio returns the median of the rounds' ratios: what changes from round to round
// on a busy machine changes both.
func (s *series) ratio() *float64 {
	if s.base == nil {
		return nil
	}
	m := median(s.ratios(s.base))
	return &m
}

// ratios returns those to another series, round by round.
func (s *series) ratios(to *series) []float64 {
	ratios := make([]float64, min(len(s.samples), len(to.samples)))
	for i := range ratios {
		ratios[i] = s.samples[i] / to.samples[i]
	}
	return ratios
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
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", s.metric, s.system, number(median(s.samples)), spread(s.samples), s.unit, ratio)
	}
	t.Flush()
}

// spread returns the range of samples, of which there is one at least.
func spread(samples []float64) string {
	return number(slices.Min(samples)) + " – " + number(slices.Max(samples))
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
	Ratio  *float64 `json:"ratio"` // to that of the system "none", null where there is none
}

func (r *report) write(file string) error {
	rows := []row{}
	for _, s := range r.series {
		r := row{System: s.system, Metric: s.metric, Unit: s.unit, Median: median(s.samples)}
		if s.base != nil && s.base.system == none {
			r.Ratio = s.ratio()
		}
		rows = append(rows, r)
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
