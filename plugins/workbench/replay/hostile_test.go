package replay

import (
	"bytes"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/recording"
	"github.com/caplance/caplance/plugins/workbench/trial"
)

// made returns a recording of a flow in each of many pools, all of one worker.
func made(t *testing.T, workers, pools int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := recording.NewWriter(&out, recording.Header{Service: trial.Service.Name, Policy: "hash", Workers: workers})
	if err != nil {
		t.Fatal(err)
	}
	builder, flows := trial.NewPools(trial.Backends(2)), trial.NewFlows(3)
	for i := range pools {
		builder.Backends[0].Weight = uint32(i + 1)
		f := flows.Next()
		w.Pick(0, builder.Build(), &f, 0, core.ByPolicy)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A small file does not make the replay take much memory: 60 KB with 1024 workers and
// 500 pools took 2.6 GiB.
func TestSmallRecordingTakesLittle(t *testing.T) {
	rt, err := host.NewRuntime(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close(t.Context())
	t.Run("workers without flows", func(t *testing.T) {
		policy := compile(t, rt, "hash")
		file := made(t, 256, 1)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		in, err := recording.NewReader(bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Run(t.Context(), policy, in, Options{}); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if took := (after.TotalAlloc - before.TotalAlloc) >> 20; took > 20 {
			t.Errorf("replay of %d bytes allocates %d MiB, want 20 at most", len(file), took)
		}
	})
	t.Run("tables of pools that are over", func(t *testing.T) {
		in, err := recording.NewReader(bytes.NewReader(made(t, 4, 50)))
		if err != nil {
			t.Fatal(err)
		}
		s := newReplay(t.Context(), compile(t, rt, "maglev"), in, &Options{})
		defer s.close()
		if err := s.play(); err != nil {
			t.Fatal(err)
		}
		if len(in.Pools) != 50 || len(s.pools) != 1 {
			t.Errorf("%d of %d pools are kept with their tables, want the 1 in use", len(s.pools), len(in.Pools))
		}
		for i, p := range in.Pools {
			if p.Lookup != nil {
				t.Fatalf("pool %d was read with a lookup table", i)
			}
		}
	})
	t.Run("more workers than there are", func(t *testing.T) {
		_, err := recording.NewReader(bytes.NewReader(made(t, 1024, 1)))
		if !errors.Is(err, recording.ErrDamaged) || !strings.Contains(err.Error(), "1024 workers") {
			t.Errorf("error is %v, want one about 1024 workers", err)
		}
	})
}
