package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/e2e/cluster"
)

const metricsAt = "127.0.0.1:9338"

// ask asks the balancer where Prometheus does.
func ask(t testing.TB, c *cluster.Cluster, path string) (code int, body string, err error) {
	t.Helper()
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: func(ctx context.Context, _, at string) (net.Conn, error) { return c.LB.Dial(ctx, "tcp", at) },
	}}
	resp, err := client.Get("http://" + metricsAt + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// series returns what Prometheus reads, by series.
func series(t testing.TB, c *cluster.Cluster) map[string]float64 {
	t.Helper()
	code, body, err := ask(t, c, "/metrics")
	must(t, err)
	if code != http.StatusOK {
		t.Fatalf("/metrics: %d\n%s", code, body)
	}
	return parse(body)
}

func parse(body string) map[string]float64 {
	out := map[string]float64{}
	for line := range strings.Lines(body) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		if !strings.Contains(line, "{") {
			name, value, _ = strings.Cut(strings.TrimSpace(line), " ")
		} else {
			name += "}"
		}
		if n, err := strconv.ParseFloat(value, 64); err == nil && line[0] != '#' {
			out[name] = n
		}
	}
	return out
}

// sum adds the series whose names begin and contain so.
func sum(all map[string]float64, name, with string) (n float64) {
	for s, v := range all {
		if strings.HasPrefix(s, name) && strings.Contains(s, with) {
			n += v
		}
	}
	return n
}

// Prometheus sees what the kernel does, too; each event is in the docs; and what is
// gone is not seen any more.
func TestMetrics(t *testing.T) {
	c := start(t, cluster.Options{Backends: 2, Policy: "round-robin", Server: `metrics = "` + metricsAt + `"`})
	for range 10 {
		_, err := httpGet(t, c, cluster.VIP4)
		must(t, err)
	}
	await(t, "the packets of ten requests", func() error {
		all := series(t, c)
		if flows, packets := sum(all, "caplance_backend_flows_total", `"web4"`), sum(all, "caplance_backend_packets_total", `"web4"`); flows != 10 || packets < 40 {
			return fmt.Errorf("%v flows and %v packets in %v", flows, packets, all)
		}
		return nil
	})
	for range 140 { // one pick in 64 of each worker is timed
		l, err := openLine(t, c, cluster.VIP4)
		must(t, err)
		must(t, l.finish())
	}
	all := series(t, c)
	if n := sum(all, "caplance_pick_duration_seconds_count", `"web4"`); n == 0 {
		t.Error("no pick was timed")
	}
	for name, want := range map[string]float64{
		"caplance_healthy": 1, `caplance_target_up{target="ruleset"}`: 1, `caplance_backend_check_up{backend="b1",service="web4"}`: 1,
		`caplance_backends_eligible{service="web4"}`: 2, `caplance_policy_info{policy="round-robin",service="web4"}`: 1, `caplance_policy_quarantined{service="web4"}`: 0,
	} {
		if got, ok := all[name]; !ok || got != want {
			t.Errorf("%s is %v, there: %t, want %v", name, got, ok, want)
		}
	}
	for _, b := range []string{"b1", "b2"} {
		age, lease := all[`caplance_lease_age_seconds{backend="`+b+`"}`], all[`caplance_lease_duration_seconds{backend="`+b+`"}`]
		if lease == 0 || age > lease {
			t.Errorf("%s has been silent for %v of %v s", b, age, lease)
		}
	}
	if c.Type != "userspace" {
		if fill, most := all[`caplance_bpf_map_entries{map="targets"}`], all[`caplance_bpf_map_max_entries{map="targets"}`]; fill < 2 || fill > most {
			t.Errorf("%v targets of %v", fill, most)
		}
	}
	golden, err := os.ReadFile("../core/metrics/testdata/metrics.golden")
	must(t, err)
	_, body, err := ask(t, c, "/metrics")
	must(t, err)
	families := 0
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (caplance_\w+ \w+)$`).FindAllStringSubmatch(body, -1) {
		if families++; !strings.Contains("\n"+string(golden), "\n"+m[1]+" {") {
			t.Errorf("%s is not in the golden file of core/metrics", m[1])
		}
	}
	if families < 40 {
		t.Errorf("%d metrics", families)
	}
	page, err := os.ReadFile("../docs/operations.md")
	must(t, err)
	for name := range all {
		if m := regexp.MustCompile(`^caplance_events_total{event="(\w+)"}`).FindStringSubmatch(name); m != nil && !documented(string(page), m[1]) {
			t.Errorf("docs/operations.md does not explain event %s", m[1])
		}
	}
	must(t, c.Backends[1].StopAgent())
	await(t, "b2 to vanish", func() error {
		if n := len(filter(series(t, c), `backend="b2"`)); n > 0 {
			return fmt.Errorf("%v", filter(series(t, c), `backend="b2"`))
		}
		return nil
	})
}

// documented reports whether a counter stands in the table of counters.
func documented(page, name string) bool {
	for row := range strings.Lines(page) {
		if cells := strings.Split(row, "|"); len(cells) == 5 && strings.Contains(cells[1], "`"+name+"`") {
			return true
		}
		if base, word, ok := cutLast(name); ok && strings.HasPrefix(row, "   | `"+base) && strings.Contains(row, "`_"+word+"`") {
			return true // `connections_asked`; `_alive`
		}
	}
	return false
}

func cutLast(name string) (base, word string, ok bool) {
	i := strings.LastIndex(name, "_")
	if i < 0 {
		return "", "", false
	}
	return name[:i], name[i+1:], true
}

func filter(all map[string]float64, with string) (out []string) {
	for s := range all {
		if strings.Contains(s, with) {
			out = append(out, s)
		}
	}
	return out
}

// A supervisor learns whether the balancer lives, a router whether it is ready, and an
// operator who asks for it what it does.
func TestProbes(t *testing.T) {
	c := start(t, cluster.Options{Backends: 1, Server: `metrics = "` + metricsAt + `"`})
	want := func(path string, code int, text string) {
		t.Helper()
		await(t, path, func() error {
			got, body, err := ask(t, c, path)
			if err == nil && (got != code || !strings.Contains(body, text)) {
				err = fmt.Errorf("%d %q, want %d with %q", got, body, code, text)
			}
			return err
		})
	}
	want("/readyz", http.StatusOK, "all is well")
	want("/healthz", http.StatusOK, "the loops run")
	want("/debug/pprof/heap", http.StatusNotFound, "metrics_pprof = true")
	top := func(line string) func(string) string { return func(s string) string { return line + "\n" + s } }
	if out, code := reloadWith(t, c, top("metrics_pprof = true")); code != 0 {
		t.Fatal(out)
	}
	want("/debug/pprof/profile?seconds=1", http.StatusOK, "")
	want("/debug/pprof/goroutine?debug=1", http.StatusOK, "goroutine profile")
	if out, code := reloadWith(t, c, edit("metrics_pprof = true", "metrics_pprof = false")); code != 0 {
		t.Fatal(out)
	}
	want("/debug/pprof/heap", http.StatusNotFound, "metrics_pprof = true")
	must(t, c.Backends[0].StopAgent())
	want("/readyz", http.StatusServiceUnavailable, "service web4 has no backend that takes new flows\n")
	want("/healthz", http.StatusOK, "the loops run") // a restart mends nothing
}

// falls watches the counters while something else goes on: one that falls is a restart
// to Prometheus.
type falls struct {
	c    *cluster.Cluster
	last map[string]float64
	bad  []string
	n    int
}

// mustGrow reports whether a series must not fall while it is there.
func mustGrow(name string) bool {
	base, _, _ := strings.Cut(name, "{")
	for _, end := range []string{"_total", "_bucket", "_count", "_sum"} {
		if strings.HasPrefix(base, "caplance_") && strings.HasSuffix(base, end) {
			return true
		}
	}
	return false
}

func (f *falls) watch(ctx context.Context, t *testing.T) {
	for ctx.Err() == nil {
		code, body, err := ask(t, f.c, "/metrics")
		if err != nil || code != http.StatusOK {
			f.bad = append(f.bad, fmt.Sprintf("/metrics: %d %v: %s", code, err, body))
			return
		}
		f.n++
		now := parse(body)
		for name, was := range f.last {
			if n, ok := now[name]; ok && n < was && mustGrow(name) {
				f.bad = append(f.bad, fmt.Sprintf("%s fell from %v to %v", name, was, n))
			}
		}
		f.last = now
	}
}

// No counter falls while backends leave, queues and tables are made anew, the fast path
// goes off and on, and somebody flushes the rules.
func TestCountersNeverFall(t *testing.T) {
	c := start(t, cluster.Options{Backends: 3, Policy: "maglev", Server: `metrics = "` + metricsAt + `"`})
	if out, code := reloadWith(t, c, edit(`name = "web6"`, "name = \"web6\"\ndeny = [\"fd77::/64\"]")); code != 0 {
		t.Fatal(out)
	}
	ctx, stop := context.WithCancel(t.Context())
	f := &falls{c: c}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		f.watch(ctx, t)
	}()
	defer func() { stop(); <-watched }()
	other := "userspace"
	if c.Type == other {
		other = "tc"
	}
	mine, theirs := fmt.Sprintf("type = %q", c.Type), fmt.Sprintf("type = %q", other)
	reload := func(change func(string) string) func() error {
		return func() error {
			if out, code := reloadWith(t, c, change); code != 0 {
				return fmt.Errorf("exit code %d: %s", code, out)
			}
			return nil
		}
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"nothing", func() error { return nil }},
		{"a backend leaves", c.Backends[2].StopAgent},
		{"other queues", reload(addAfter("[datapath]", "first_queue = 2000"))},
		{"another flow table", reload(addAfter("[datapath]", "flows = 60000"))},
		{"another policy", reload(edit(`"maglev"`, `"round-robin"`))},
		{"another datapath type", reload(edit(mine, theirs))},
		{"the datapath type as before", reload(edit(theirs, mine))},
		{"the rules flushed", func() error {
			return errors.Join(c.LB.Do(flushRuleset), reload(edit("first_queue = 2000", "first_queue = 1500"))())
		}},
	} {
		must(t, step.do())
		for range 40 {
			l, err := openLine(t, c, cluster.VIP4)
			must(t, err)
			must(t, l.finish())
		}
		for _, nobody := range []netip.AddrPort{netip.AddrPortFrom(cluster.VIP6, 80), netip.AddrPortFrom(cluster.VIP4, 9)} {
			soon, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			if conn, err := c.Client.Dial(soon, "tcp", nobody.String()); err == nil {
				conn.Close()
				t.Errorf("%s: %v answers", step.name, nobody)
			}
			cancel()
		}
	}
	stop()
	<-watched
	for _, bad := range f.bad {
		t.Error(bad)
	}
	for _, name := range []string{`caplance_picks_total{by="table",service="web4"}`, `caplance_picks_total{by="policy",service="web4"}`, `caplance_refused_packets_total{service="web6",why="denied"}`, `caplance_events_total{event="vip_unclaimed"}`} {
		if f.last[name] == 0 {
			t.Errorf("this proves little: %s is 0 after %d scrapes", name, f.n)
		}
	}
}
