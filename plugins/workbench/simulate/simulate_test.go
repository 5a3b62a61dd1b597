package simulate

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/workbench/trial"
	"github.com/caplance/caplance/policies"
)

func run(t *testing.T, name, flows, events string, workers int) *Result {
	t.Helper()
	rt, err := host.NewRuntime(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close(t.Context())
	_, wasm, err := policies.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	policy, err := rt.Compile(t.Context(), name, wasm)
	if err != nil {
		t.Fatal(err)
	}
	load, err := trial.ParseWorkload(flows)
	if err != nil {
		t.Fatal(err)
	}
	list, err := ParseEvents(events)
	if err != nil {
		t.Fatal(err)
	}
	backends := trial.Backends(10)
	backends[0].Weight = 3
	r, err := Run(t.Context(), policy, Options{Backends: backends, Workload: load, Events: list, Workers: workers, Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const allEvents = "kill b3@50%; add b11@70%; weight b1=1@80%; drain b2@90%; add b2@95%"

// The figures mean what they say: policies that are known to be even are, and
// only consistent ones are measured for disruption.
func TestKnownPolicies(t *testing.T) {
	for _, c := range []struct {
		policy     string
		consistent bool
		maxMean    float64
		peak       float64
	}{
		{"hash", true, 1.1, 3},
		{"maglev", true, 1.1, 3},
		{"weighted-round-robin", false, 1.01, 3},
		{"weighted-least-connections", false, 1.5, 3},
	} {
		r := run(t, c.policy, "uniform:50k", allEvents, 4)
		if r.Consistent != c.consistent || r.MaxMean < 1 || r.MaxMean > c.maxMean || r.Peak < 1 || r.Peak > c.peak {
			t.Errorf("%s: consistent %v, max/mean %v, peak %v", c.policy, r.Consistent, r.MaxMean, r.Peak)
		}
		placed, fair := uint64(0), 0.0
		for _, b := range r.Backends {
			placed += b.Flows
			fair += b.Fair
		}
		if placed != 50_000 || math.Abs(fair-50_000) > 1 || len(r.Backends) != 11 {
			t.Errorf("%s: %d flows placed, %f fair, %d backends", c.policy, placed, fair, len(r.Backends))
		}
		if !c.consistent {
			continue
		}
		for _, d := range r.Events {
			if d.Needless > 0.02 || math.Abs(d.Moved-d.Least) > 0.03 {
				t.Errorf("%s: %s moved %.3f, at least %.3f, needless %.3f", c.policy, d.Event, d.Moved, d.Least, d.Needless)
			}
		}
	}
}

// The same seed gives the same result to the last digit.
func TestDeterministic(t *testing.T) {
	once := func() string {
		text, err := json.Marshal(run(t, "power-of-two-choices", "zipf:20k", allEvents, 3))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if a, b := once(), once(); a != b {
		t.Errorf("two runs differ:\n%s\n%s", a, b)
	}
}

func TestHTML(t *testing.T) {
	r := Report{Setup: "<setup>", Results: []Result{*run(t, "hash", "uniform:5k", allEvents, 1), *run(t, "random", "uniform:5k", allEvents, 1)}}
	var out bytes.Buffer
	if err := r.HTML(&out); err != nil {
		t.Fatal(err)
	}
	page := out.String()
	for _, want := range []string{"&lt;setup&gt;", "kill b3@50%", "<polyline", "random", "b11"} {
		if !strings.Contains(page, want) {
			t.Errorf("page lacks %q", want)
		}
	}
	for _, bad := range []string{"http://", "https://", "<script", "src=", "NaN", "ZgotmplZ", "%!"} {
		if strings.Contains(page, bad) {
			t.Errorf("page has %q", bad)
		}
	}
}

func TestParseEvents(t *testing.T) {
	list, err := ParseEvents(" weight b1=3@80% ;kill b3@50%;")
	if err != nil || len(list) != 2 || list[0].String() != "kill b3@50%" || list[1].String() != "weight b1=3@80%" {
		t.Errorf("%v, %v", list, err)
	}
	for spec, want := range map[string]string{
		"explode b1@5%": "write kill|drain", "kill b1": "write kill|drain", "kill b1=2@5%": "takes no weight",
		"weight b1@5%": "is missing", "kill b1@x": "not between", "kill b1@101%": "not between", "add b1=-1@5%": "no number",
	} {
		if _, err := ParseEvents(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", spec, err, want)
		}
	}
}

func TestEndsComeInOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var h ends
	for range 1000 {
		h.push(end{at: rng.Uint64N(500)})
	}
	h = h[:700]
	h.init()
	for last := uint64(0); len(h) > 0; {
		e := h.pop()
		if e.at < last {
			t.Fatalf("%d after %d", e.at, last)
		}
		last = e.at
	}
}

func TestChance(t *testing.T) {
	for _, c := range []struct {
		square float64
		free   int
		want   float64
	}{{3.84, 1, 0.05}, {16.92, 9, 0.05}, {9, 9, 0.44}, {1000, 9, 0}} {
		if got := (&Result{ChiSquare: c.square, Freedom: c.free}).Chance(); math.Abs(got-c.want) > 0.01 {
			t.Errorf("χ² %v at %d: %v, want %v", c.square, c.free, got, c.want)
		}
	}
}
