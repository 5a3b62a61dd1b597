package bench

import (
	"bytes"
	"strings"
	"testing"

	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/policies"
)

func TestMeasure(t *testing.T) {
	rt, err := host.NewRuntime(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close(t.Context())
	opt := Options{Seed: 1, Picks: 2000}
	var report Report
	for _, name := range []string{"hash", "maglev", "least-connections"} {
		_, wasm, err := policies.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Measure(t.Context(), rt, name, wasm, 16, opt)
		if err != nil {
			t.Fatal(err)
		}
		if r.P50 <= 0 || r.P50 > r.P99 || r.P99 > r.Max || r.Allocs != 0 || r.Memory == 0 || r.Compile <= 0 || r.Start <= 0 || r.Pool <= 0 || r.Declined {
			t.Errorf("%+v is implausible", r)
		}
		if table := name == "maglev"; (r.Table > 0) != table || (r.Fuel == 0) != table {
			t.Errorf("%s: table took %v ns, a pick %d fuel", name, r.Table, r.Fuel)
		}
		report.Rows = append(report.Rows, r)
	}
	native, ok := Reference("hash", 16, opt)
	if !ok || native.P50 <= 0 || !native.Native {
		t.Errorf("reference: %+v, %v", native, ok)
	}
	if _, ok := Reference("nobody", 16, opt); ok {
		t.Error("nobody has a reference")
	}
	report.Rows = append(report.Rows, native)
	var out bytes.Buffer
	if err := report.Print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"BACKENDS", "least-connections", "hash, reference in Go", "640 KiB"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("print lacks %q:\n%s", want, out.String())
		}
	}
}

func TestDuration(t *testing.T) {
	for want, ns := range map[string]float64{"-": 0, "850ns": 850, "12.3µs": 12345, "4.56ms": 4.56e6, "1.2s": 1.2e9} {
		if got := duration(ns); got != want {
			t.Errorf("duration(%v) = %s, want %s", ns, got, want)
		}
	}
}
