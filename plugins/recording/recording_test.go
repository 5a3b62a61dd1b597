package recording

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/workbench/trial"
	"github.com/google/go-cmp/cmp"
)

// sample returns a recording of 100 flows in two pools, and what it should read as.
func sample(t testing.TB) (file []byte, want []Entry) {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, Header{Service: trial.Service.Name, Policy: "hash", Workers: 2, Seed: 5})
	if err != nil {
		t.Fatal(err)
	}
	pools, flows := trial.NewPools(trial.Backends(3)), trial.NewFlows(1)
	pools.Backends[1].MaxFlows, pools.Backends[1].Priority, pools.Backends[1].Label = 9, 2, 1<<40
	pool := pools.Build()
	for i := range 100 {
		if i == 50 {
			pools.Backends[0].State = core.Draining
			pool = pools.Build()
		}
		e := Entry{Worker: i % 2, Pool: i / 50, Flow: flows.Next(), Index: i%3 - 1}
		e.Flow.Hash, e.Flow.Mark = e.Flow.Key.Hash(5), uint32(i)
		if e.Index < 0 {
			e.By = core.ByReject
		}
		w.Pick(e.Worker, pool, &e.Flow, e.Index, e.By)
		want = append(want, e)
	}
	w.Lost(7)
	end := core.FlowEnd{Backend: pool.Members[2].Handle, Packets: 1, Bytes: 1 << 50, Duration: 3}
	w.End(1, &end)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), append(want, Entry{Worker: 1, Index: -1, Ended: true, End: end})
}

func read(file []byte) (r *Reader, list []Entry, err error) {
	if r, err = NewReader(bytes.NewReader(file)); err != nil {
		return nil, nil, err
	}
	for {
		var e Entry
		if err := r.Next(&e); errors.Is(err, io.EOF) {
			return r, list, nil
		} else if err != nil {
			return r, list, err
		}
		list = append(list, e)
	}
}

func TestRoundTrip(t *testing.T) {
	file, want := sample(t)
	r, got, err := read(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if r.Lost != 7 || r.Flows != 100 || r.Cut || len(r.Pools) != 2 || r.Header.Policy != "hash" {
		t.Errorf("%d lost, %d flows, cut %v, %d pools", r.Lost, r.Flows, r.Cut, len(r.Pools))
	}
	p := r.Pools[1]
	if p.Eligible != 2 || p.Members[0].Name != "b2" || p.Members[0].MaxFlows != 9 || p.Members[0].Label != 1<<40 || p.Members[2].State != core.Draining {
		t.Errorf("second pool: %+v", p.Members)
	}
	if id := core.BackendID(trial.Service.Name, "b2"); p.Members[0].ID != id || p.Members[0].Handle != r.Pools[0].Members[1].Handle {
		t.Error("b2 is somebody else in the second pool")
	}
	if len(file) > 100*60 {
		t.Errorf("%d bytes for 100 flows", len(file))
	}
}

// A recording that was interrupted is good up to there, wherever that is.
func TestCutShort(t *testing.T) {
	file, _ := sample(t)
	for n := 0; n < len(file); n += 17 {
		r, list, err := read(file[:n])
		switch {
		case err == nil && !r.Cut:
			t.Fatalf("%d of %d bytes passed for all", n, len(file))
		case err != nil && r != nil:
			t.Fatalf("%d of %d bytes: %v after %d entries", n, len(file), err, len(list))
		}
	}
}

func FuzzRead(f *testing.F) {
	file, _ := sample(f)
	f.Add(file)
	f.Add([]byte(Magic))
	f.Fuzz(func(t *testing.T, file []byte) {
		if _, _, err := read(file); err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("%v is not ErrDamaged", err)
		}
	})
}

// A pool without backends takes three bytes: there are only as many as flows can
// name.
func TestPoolsAreBounded(t *testing.T) {
	var out bytes.Buffer
	if _, err := NewWriter(&out, Header{Service: "web", Workers: 1}); err != nil {
		t.Fatal(err)
	}
	file := append(out.Bytes(), bytes.Repeat([]byte{kindPool, 0, 0}, maxPools+1)...)
	r, _, err := read(file)
	if !errors.Is(err, ErrDamaged) || len(r.Pools) != maxPools {
		t.Errorf("%d pools were read, error %v; want %d and damage", len(r.Pools), err, maxPools)
	}
}
