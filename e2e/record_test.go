package e2e

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/caplance/caplance/e2e/cluster"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/recording"
	"github.com/caplance/caplance/plugins/workbench/replay"
	"github.com/caplance/caplance/policies"
)

// A recording of live traffic has the flows that came, with who got them; a
// policy that goes by nothing but the flow makes the same picks in a replay.
func TestRecordAndReplay(t *testing.T) {
	c := start(t, cluster.Options{Backends: 3, Policy: "hash"})
	l := startLoad(t, c)
	file := filepath.Join(c.Dir, "web.rec")
	f, err := os.Create(file)
	must(t, err)
	must(t, c.Control().Record(t.Context(), "web4", 60, f))
	must(t, f.Close())
	l.end()

	if err := c.Control().Record(t.Context(), "nobody", 1, io.Discard); err == nil {
		t.Error("an unknown service was recorded")
	}
	rt, err := host.NewRuntime(t.Context())
	must(t, err)
	defer rt.Close(t.Context())
	for name, agrees := range map[string]bool{"hash": true, "random": false} {
		f, err := os.Open(file)
		must(t, err)
		defer f.Close()
		in, err := recording.NewReader(f)
		must(t, err)
		_, wasm, err := policies.Load(name)
		must(t, err)
		policy, err := rt.Compile(t.Context(), name, wasm)
		must(t, err)
		r, err := replay.Run(t.Context(), policy, in, replay.Options{})
		must(t, err)
		t.Logf("%s: %d of %d differ", name, r.Differ, r.Flows)
		if r.Flows != 60 || r.Cut || r.Lost > 0 || r.Service != "web4" || r.Recorded != "hash" || len(r.Backends) != 3 || agrees != (r.Differ == 0) {
			t.Errorf("%s: %+v", name, r)
		}
	}
}
