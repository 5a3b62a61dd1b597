// Package monitoring holds a dashboard for Grafana and alerts for Prometheus, and
// tests that name what does not exist.
package monitoring

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/nettest"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// metric is a line of the golden file.
type metric struct {
	kind   string
	labels []string
}

// metrics returns those that the balancer has, by name. Of histograms it has the
// series' names.
func metrics(t *testing.T) map[string]metric {
	t.Helper()
	out := map[string]metric{}
	for line := range strings.Lines(read(t, "../../core/metrics/testdata/metrics.golden")) {
		f := strings.Fields(line)
		m := metric{f[1], strings.Split(strings.Trim(f[2], "{}"), ",")}
		if m.kind != "histogram" {
			out[f[0]] = m
			continue
		}
		out[f[0]+"_sum"], out[f[0]+"_count"] = m, m
		m.labels = append(m.labels, "le")
		out[f[0]+"_bucket"] = m
	}
	if len(out) < 40 {
		t.Fatalf("%d metrics", len(out))
	}
	return out
}

var (
	selector = regexp.MustCompile(`\b(caplance_\w+|up)\b(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`(\w+)(?:=~|!~|!=|=)"([^"]*)"`)
	grouping = regexp.MustCompile(`\b(?:by|on) \(([^)]*)\)`)
	counting = regexp.MustCompile(`\b(rate|increase)\(([a-z_]+)`)
)

// values are the words that a label may have, where the list is fixed.
func values(t *testing.T) map[string][]string {
	t.Helper()
	out := map[string][]string{"map": {"flows", "pending", "targets"}, "job": {"caplance"}}
	for row := range strings.Lines(read(t, "../../docs/operations.md")) {
		if cells := strings.Split(row, "|"); len(cells) == 5 && strings.HasPrefix(row, "   | `") {
			for _, name := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cells[1], -1) {
				out["event"] = append(out["event"], name[1])
			}
		}
	}
	for s := core.Active; s <= core.Missing; s++ {
		out["state"] = append(out["state"], s.String())
	}
	return out
}

// wrong returns what an expression names that does not exist, and how it misuses what
// does.
func wrong(expr string, known map[string]metric, values map[string][]string) (bad []string) {
	labels := []string{"instance", "job"}
	selectors := selector.FindAllStringSubmatch(grouping.ReplaceAllString(expr, ""), -1)
	if len(selectors) == 0 {
		bad = append(bad, "no metric at all")
	}
	for _, s := range selectors {
		m, ok := known[s[1]]
		if !ok && s[1] != "up" {
			bad = append(bad, s[1])
		}
		labels = append(labels, m.labels...)
		for _, l := range matcher.FindAllStringSubmatch(s[2], -1) {
			if !slices.Contains(append([]string{"instance", "job"}, m.labels...), l[1]) {
				bad = append(bad, fmt.Sprintf("label %s of %s", l[1], s[1]))
			}
			for _, word := range strings.Split(l[2], "|") {
				if list := values[l[1]]; list != nil && !strings.HasPrefix(word, "$") && !slices.Contains(list, word) {
					bad = append(bad, fmt.Sprintf("%s=%q", l[1], word))
				}
			}
		}
	}
	for _, g := range grouping.FindAllStringSubmatch(expr, -1) {
		for _, l := range strings.Split(g[1], ", ") {
			if !slices.Contains(labels, l) {
				bad = append(bad, "label "+l)
			}
		}
	}
	for _, c := range counting.FindAllStringSubmatch(expr, -1) {
		if k := known[c[2]].kind; k != "counter" && k != "histogram" {
			bad = append(bad, fmt.Sprintf("%s of the %s %s", c[1], k, c[2]))
		}
	}
	return bad
}

func TestWrongFindsWhatIsWrong(t *testing.T) {
	known, words := metrics(t), values(t)
	for expr, want := range map[string]string{
		`caplance_flow > 1`:                "[caplance_flow]",
		`vector(1)`:                        "[no metric at all]",
		`rate(caplance_flows[5m])`:         "[rate of the gauge caplance_flows]",
		`sum by (client) (caplance_flows)`: "[label client]",
		`caplance_backend_state{service="web", state=~"active|asleep"}`:        `[state="asleep"]`,
		`rate(caplance_events_total{event="no_backends"}[5m])`:                 `[event="no_backends"]`,
		`caplance_flows{service="web"}`:                                        "[label service of caplance_flows]",
		`rate(caplance_pick_duration_seconds[5m])`:                             "[caplance_pick_duration_seconds rate of the  caplance_pick_duration_seconds]",
		`sum by (le) (rate(caplance_pick_duration_seconds_bucket[5m])) + up`:   "[]",
		`caplance_events_total{event=~"$event|kernel_forwarded", job="other"}`: `[job="other"]`,
	} {
		if got := fmt.Sprint(wrong(expr, known, words)); got != want {
			t.Errorf("%s: %s, want %s", expr, got, want)
		}
	}
}

// rule is an alert.
type rule struct{ name, expr, severity, runbook string }

func rules(t *testing.T) (out []rule) {
	t.Helper()
	for _, part := range strings.Split(read(t, "alerts.yml"), "- alert: ")[1:] {
		field := func(name string) string {
			m := regexp.MustCompile(`(?m)^ +` + name + `: (.*)$`).FindStringSubmatch(part)
			if m == nil {
				t.Fatalf("no %s in %s", name, part)
			}
			return strings.Trim(m[1], "'")
		}
		out = append(out, rule{strings.TrimSpace(part[:strings.Index(part, "\n")]), field("expr"), field("severity"), field("runbook")})
	}
	return out
}

// Each alert names what exists, fires and is silent in alerts_test.yml, and has a part
// in docs/metrics.md that says what to do.
func TestAlerts(t *testing.T) {
	known, words := metrics(t), values(t)
	page, tests := read(t, "../../docs/metrics.md"), read(t, "alerts_test.yml")
	list := rules(t)
	for _, r := range list {
		if bad := wrong(r.expr, known, words); bad != nil {
			t.Errorf("%s: %v", r.name, bad)
		}
		if want := "docs/metrics.md#" + strings.ToLower(r.name); r.runbook != want {
			t.Errorf("%s: runbook %s, want %s", r.name, r.runbook, want)
		}
		_, text, _ := strings.Cut(page, "\n### "+r.name+"\n\n")
		text, _, _ = strings.Cut(text, "\n### ")
		if want := "*" + strings.ToUpper(r.severity[:1]) + r.severity[1:] + ".* "; !strings.HasPrefix(text, want) || !strings.Contains(text, "\n**Do:** ") {
			t.Errorf("%s: docs/metrics.md has no part that begins with %q and says what to do", r.name, want)
		}
		for _, what := range []string{" fires", " is silent"} {
			if !strings.Contains(tests, "- name: "+r.name+what+"\n") {
				t.Errorf("%s: alerts_test.yml has no test in which it%s", r.name, what)
			}
		}
	}
	if n := strings.Count(page, "\n### Caplance"); n != len(list) || n < 20 {
		t.Errorf("docs/metrics.md has %d alerts, alerts.yml %d", n, len(list))
	}
}

// dashboard is what the tests read of one.
type dashboard struct {
	Title      string
	Templating struct {
		List []struct {
			Name  string
			Query any
		}
	}
	Panels []struct {
		ID      int
		Type    string
		Title   string
		GridPos struct{ H, W, X, Y int }
		Targets []struct{ Expr string }
	}
}

func parseDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	if err := json.Unmarshal([]byte(read(t, "dashboard.json")), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// The dashboard parses, names what exists, and its panels do not cover each other.
func TestDashboard(t *testing.T) {
	known, words := metrics(t), values(t)
	d := parseDashboard(t)
	if len(d.Panels) < 10 || d.Title == "" {
		t.Fatalf("%d panels, title %q", len(d.Panels), d.Title)
	}
	var variables []string
	for _, v := range d.Templating.List {
		variables = append(variables, "$"+v.Name)
		if q, ok := v.Query.(map[string]any); ok {
			for _, m := range regexp.MustCompile(`caplance_\w+`).FindAllString(fmt.Sprint(q["query"]), -1) {
				if _, ok := known[m]; !ok {
					t.Errorf("variable %s: %s", v.Name, m)
				}
			}
		}
	}
	taken := map[[2]int]string{}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			if bad := wrong(target.Expr, known, words); bad != nil {
				t.Errorf("%s: %v in %s", p.Title, bad, target.Expr)
			}
			for _, v := range regexp.MustCompile(`\$\w+`).FindAllString(target.Expr, -1) {
				if v != "$__rate_interval" && !slices.Contains(variables, v) {
					t.Errorf("%s: variable %s is unknown", p.Title, v)
				}
			}
		}
		if len(p.Targets) == 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("%s: no query, or too wide", p.Title)
		}
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other := taken[at]; other != "" {
					t.Fatalf("%s covers %s", p.Title, other)
				}
				taken[at] = p.Title
			}
		}
	}
}

// promtool runs Prometheus' own checks.
func promtool(t *testing.T, dir string, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		nettest.Missing(t, "promtool (package prometheus)")
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = dir
	if args[len(args)-1] == "metrics" {
		in, err := os.Open(filepath.Join(dir, "metrics.txt"))
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		cmd.Stdin = in
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestRules(t *testing.T) {
	promtool(t, ".", "check", "rules", "--lint-fatal", "alerts.yml")
	promtool(t, ".", "test", "rules", "alerts_test.yml")
}

// The queries of the dashboard are PromQL.
func TestQueries(t *testing.T) {
	var b strings.Builder
	b.WriteString("groups:\n- name: dashboard\n  rules:\n")
	for _, p := range parseDashboard(t).Panels {
		for i, target := range p.Targets {
			expr := strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*", "$service", ".*").Replace(target.Expr)
			fmt.Fprintf(&b, "  - record: panel%d:query%d\n    expr: '%s'\n", p.ID, i, expr)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "queries.yml"), []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, dir, "check", "rules", "queries.yml")
}

// What docs/metrics.md has Prometheus configured with is a configuration.
func TestConfigurationInTheDocs(t *testing.T) {
	_, text, ok := strings.Cut(read(t, "../../docs/metrics.md"), "```yaml\n")
	text, _, _ = strings.Cut(text, "```")
	dir := t.TempDir()
	if !ok || !strings.Contains(text, "rule_files: [alerts.yml]") {
		t.Fatalf("no configuration in docs/metrics.md: %q", text)
	}
	for name, data := range map[string]string{"prometheus.yml": text, "alerts.yml": read(t, "alerts.yml")} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	promtool(t, dir, "check", "config", "prometheus.yml")
}

// What the balancer answers follows Prometheus' conventions. The text is made of the
// golden file, which core/metrics holds against what it answers.
func TestConventions(t *testing.T) {
	var b strings.Builder
	for line := range strings.Lines(read(t, "../../core/metrics/testdata/metrics.golden")) {
		f := strings.SplitN(strings.TrimSpace(line), " ", 4)
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", f[0], f[3], f[0], f[1])
		if f[1] == "histogram" {
			fmt.Fprintf(&b, "%s_bucket{le=\"+Inf\"} 1\n%s_sum 1\n%s_count 1\n", f[0], f[0], f[0])
			continue
		}
		fmt.Fprintf(&b, "%s 1\n", f[0])
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "metrics.txt"), []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, dir, "check", "metrics")
}
