package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/api"
	"github.com/google/go-cmp/cmp"
)

func at(s int) time.Time { return time.Unix(int64(s), 0) }

// A backend's counters start anew when it registers anew; the demo's go on.
func TestTotals(t *testing.T) {
	var sum totals
	row := func(service, name string, since int, flows, packets uint64) api.BackendRow {
		return api.BackendRow{Service: service, Name: name, Since: at(since), FlowsTotal: flows, Packets: packets, State: core.Active}
	}
	sum.add(at(1), []api.BackendRow{row("web", "b1", 1, 2, 20), row("web", "b2", 1, 2, 20), row("dns", "b2", 1, 1, 1)})
	sum.add(at(2), []api.BackendRow{row("web", "b1", 1, 5, 50)})
	want := []line{{"b1", 5, 50, 5. / 8, 1, "active"}, {"b2", 3, 21, 3. / 8, 0, "gone"}}
	if d := cmp.Diff(want, sum.lines(), cmp.AllowUnexported(line{})); d != "" {
		t.Errorf("b2 gone (-want +got):\n%s", d)
	}
	sum.add(at(3), []api.BackendRow{row("web", "b1", 1, 6, 60), row("web", "b2", 9, 3, 30)})
	want = []line{{"b1", 6, 60, 0.5, 0.25, "active"}, {"b2", 6, 51, 0.5, 0.75, "active"}}
	if d := cmp.Diff(want, sum.lines(), cmp.AllowUnexported(line{})); d != "" {
		t.Errorf("b2 back (-want +got):\n%s", d)
	}
}

// Requests under way while a backend is dead may fail, no others.
func TestExcuse(t *testing.T) {
	l := newLoad(nil)
	failed := errors.New("no answer")
	for _, w := range []window{{at(1), at(2)}, {at(2), at(4)}, {at(4), at(5)}, {at(5), at(8)}, {at(7), at(9)}} {
		l.failures = append(l.failures, failure{w, failed})
	}
	l.excuse(at(3), at(6))
	if got := l.sum(); got != (outcome{excused: 3, failed: 2, first: failed, began: at(1)}) {
		t.Errorf("%+v", got)
	}
}

func TestScreen(t *testing.T) {
	shares := []line{{"b1", 30, 300, 0.75, 1, "active"}, {"b2", 10, 100, 0.25, 0, "lost"}}
	var out bytes.Buffer
	s := &display{w: &out}
	for ms := range 11 {
		s.shares(time.Duration(ms)*200*time.Millisecond, shares)
	}
	s.table(shares)
	const want = "" +
		"  0.0 s   b1 100.0%    30 flows  b2   0.0%    10 flows (lost)\n" +
		"  1.0 s   b1 100.0%    30 flows  b2   0.0%    10 flows (lost)\n" +
		"  2.0 s   b1 100.0%    30 flows  b2   0.0%    10 flows (lost)\n" +
		"backend     flows   share   packets  state\n" +
		"b1             30   75.0%       300  active\n" +
		"b2             10   25.0%       100  lost\n"
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("not on a terminal (-want +got):\n%s", d)
	}

	out.Reset()
	s = &display{w: &out, live: true}
	s.shares(0, shares)
	out.Reset()
	s.printf("news\n")
	if got := out.String(); got != "\x1b[3A\x1b[Jnews\n" {
		t.Errorf("the script goes above the shares: %q", got)
	}
}

// A killed demo's directory goes, that of one that runs stays.
func TestDirectory(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	gone, alive := filepath.Join(tmp, "caplance-demo-4194399-1"), filepath.Join(tmp, fmt.Sprintf("caplance-demo-%d-1", os.Getppid()))
	for _, d := range []string{filepath.Join(gone, "lb", "bpf"), alive} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	dir, warnings, err := newDirectory()
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	for path, want := range map[string]bool{gone: false, alive: true, dir: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
}
