package metrics

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

var update = flag.Bool("update", false, "write testdata/metrics.golden")

const golden = "testdata/metrics.golden"

// The names, types, labels and help of the metrics are an interface: dashboards and
// alerts read them. What tools/monitoring and docs/metrics.md name is held against the
// same file.
func TestGolden(t *testing.T) {
	r := prometheus.NewPedanticRegistry() // holds what is collected against what is described
	if err := r.Register(collector{source{}}); err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]string{}
	for _, f := range families {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		byName[f.GetName()] = fmt.Sprintf("%s %s {%s} %s\n", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ","), f.GetHelp())
	}
	var got strings.Builder
	for _, d := range described {
		name := regexp.MustCompile(`fqName: "([^"]*)"`).FindStringSubmatch(d.String())[1]
		if byName[name] == "" {
			t.Errorf("%s has no series: give the source of this test one", name)
		}
		got.WriteString(byName[name])
		delete(byName, name)
	}
	if len(byName) > 0 {
		t.Errorf("not described, or twice: %v", byName)
	}
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got.String()); d != "" {
		t.Errorf("metrics differ from %s (-want +got); if that is meant: go test ./core/metrics -run Golden -update\n%s", golden, d)
	}
}

// docs/metrics.md has each metric with its type and labels once, and no others, in the
// order of the golden file.
func TestDocumented(t *testing.T) {
	lines, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for line := range strings.Lines(string(lines)) {
		f := strings.Fields(line)
		labels := strings.Trim(f[2], "{}")
		if labels != "" {
			labels = "`" + strings.ReplaceAll(labels, ",", "`, `") + "`"
		}
		want = append(want, fmt.Sprintf("`%s` | %s | %s", f[0], f[1], labels))
	}
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || !strings.HasPrefix(strings.TrimSpace(cells[1]), "`caplance_") {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if len(cells[4]) < 10 {
			t.Errorf("%s has no meaning", cells[1])
		}
		got = append(got, strings.TrimSpace(strings.Join(cells[1:4], " | ")))
	}
	for i := range want {
		want[i] = strings.TrimSpace(want[i])
	}
	if !slices.Equal(want, got) {
		t.Errorf("docs/metrics.md differs from %s (-want +got)\n%s", golden, cmp.Diff(want, got))
	}
}
