package replay

import (
	"bytes"
	"strings"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/recording"
	"github.com/caplance/caplance/plugins/workbench/trial"
	"github.com/caplance/caplance/policies"
)

func compile(t *testing.T, rt *host.Runtime, name string) *host.Policy {
	t.Helper()
	_, wasm, err := policies.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	p, err := rt.Compile(t.Context(), name, wasm)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// live records 4000 flows of a policy over two pools, as the daemon does.
func live(t *testing.T, policy *host.Policy) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := recording.NewWriter(&out, recording.Header{Service: trial.Service.Name, Policy: policy.Name(), Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	s, err := policy.NewScheduler(t.Context(), host.Config{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r := host.NewRecorder()
	s.SetRecorder(r)
	pools, flows := trial.NewPools(trial.Backends(5)), trial.NewFlows(3)
	for range 2 {
		pool := pools.Build()
		s.SetPool(pool)
		for i := range 2000 {
			f := flows.Next()
			index, _ := s.Pick(&f)
			if i%3 == 0 {
				s.Ended(&core.FlowEnd{Backend: pool.Members[index].Handle, Packets: 5, Bytes: 100})
			}
		}
		pools.Remove("b3")
	}
	w.Lost(r.Take(func(e *host.Seen) {
		if e.Ended {
			w.End(0, &e.End)
		} else {
			w.Pick(0, e.Pool, &e.Flow, e.Index, e.By)
		}
	}))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A policy agrees with its own recording, even one that goes by open flows; a
// different one does not, and what it would have done adds up.
func TestReplay(t *testing.T) {
	rt, err := host.NewRuntime(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close(t.Context())
	replay := func(file []byte, name string) *Result {
		in, err := recording.NewReader(bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		r, err := Run(t.Context(), compile(t, rt, name), in, Options{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	file := live(t, compile(t, rt, "hash"))
	for _, c := range []struct {
		policy   string
		min, max float64
	}{{"hash", 0, 0}, {"maglev", 0, 0}, {"random", 0.7, 0.9}, {"source-hash", 0.5, 0.95}} {
		r := replay(file, c.policy)
		if r.Flows != 4000 || r.Share < c.min || r.Share > c.max || r.Cut || r.Lost > 0 {
			t.Errorf("%s: %+v", c.policy, r)
		}
		var was, now, stayed uint64
		for _, b := range r.Backends {
			was, now, stayed = was+b.Was, now+b.Now, stayed+b.Stayed
		}
		if was != 4000 || now != 4000 || stayed != 4000-r.Differ || len(r.Backends) != 5 {
			t.Errorf("%s: was %d, now %d, stayed %d: %+v", c.policy, was, now, stayed, r.Backends)
		}
	}
	if r := replay(live(t, compile(t, rt, "round-robin")), "round-robin"); r.Differ != 0 {
		t.Errorf("round-robin differs from itself by %d", r.Differ)
	}
	if r := replay(file[:len(file)/2], "hash"); !r.Cut || r.Flows < 1000 || r.Differ != 0 {
		t.Errorf("half of it: %+v", r)
	}
	var out bytes.Buffer
	if err := replay(file, "random").Print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"4000 flows of trial, recorded with hash: random would have put", "BACKEND", "b3"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("print lacks %q:\n%s", want, out.String())
		}
	}
}
