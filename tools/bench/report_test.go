package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReport(t *testing.T) {
	r := newReport(&bytes.Buffer{})
	base := r.measure(none, "speed", "1/s", nil)
	ours := r.measure("ours", "speed", "1/s", base)
	other := r.measure("beside", "speed", "1/s", ours)
	for i, v := range []float64{100, 50, 200} { // the machine's mood changes both
		base.add(v)
		ours.add(v * float64(i+2))
		other.add(v * float64(i+2))
	}
	file := filepath.Join(t.TempDir(), "bench.json")
	if err := r.write(file); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	want := []map[string]any{
		{"system": "none", "metric": "speed", "unit": "1/s", "median": 100., "ratio": nil},
		{"system": "ours", "metric": "speed", "unit": "1/s", "median": 200., "ratio": 3.},
		{"system": "beside", "metric": "speed", "unit": "1/s", "median": 200., "ratio": nil}, // to another than none
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	var table strings.Builder
	r.print(&table)
	if !strings.Contains(table.String(), "150 – 800") || !strings.Contains(table.String(), "3.00") {
		t.Errorf("table:\n%s", &table)
	}
}

func TestGoals(t *testing.T) {
	r := newReport(&bytes.Buffer{})
	for i := range 3 {
		for _, s := range []struct {
			system, metric string
			value          float64
		}{
			{none, metricStream, 100}, {direct, metricStream, 94.6}, {natted, metricStream, 95},
			{none, metricRTT50, 40}, {direct, metricRTT50, 45},
		} {
			if i == 0 {
				r.measure(s.system, s.metric, "", nil)
			}
			r.find(s.system, s.metric).add(s.value * float64(i+1))
		}
	}
	var out strings.Builder
	r.printGoals(&out)
	var got [][]string
	for line := range strings.Lines(out.String()) {
		if f := strings.Fields(line); len(f) > 0 {
			got = append(got, f[len(f)-2:])
		}
	}
	want := [][]string{{"max", "wanted"}, {"0.95", "met"}, {"1.00", "met"}, {"1.10", "missed"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s\n%s", d, &out)
	}
}

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		samples []float64
		want    float64
	}{{nil, 0}, {[]float64{7}, 7}, {[]float64{3, 1}, 2}, {[]float64{9, 1, 3}, 3}} {
		if got := median(tt.samples); got != tt.want {
			t.Errorf("median of %v is %v, want %v", tt.samples, got, tt.want)
		}
	}
}
