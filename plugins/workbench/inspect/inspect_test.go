package inspect

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/policies"
)

func TestModule(t *testing.T) {
	rt, err := host.NewRuntime(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close(t.Context())
	for _, c := range []struct {
		name  string
		table bool
		slots string
	}{{"hash", false, "BACKENDS"}, {"maglev", true, "TABLE"}, {"least-connections", false, "ACTIVE"}} {
		_, wasm, err := policies.Load(c.name)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Module(t.Context(), rt, c.name, wasm)
		if err != nil {
			t.Fatal(err)
		}
		var slots []string
		for _, s := range r.Slots {
			slots = append(slots, s.Name)
		}
		if !r.Pure || r.TableMode != c.table || r.Refused != "" || r.Size != len(wasm) || !strings.Contains(strings.Join(slots, " "), c.slots) ||
			r.Memory.Bytes < r.Memory.Pages<<16 || r.Memory.MaxPages < r.Memory.Pages || !r.Memory.Declared {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
}

// What cannot be started is shown all the same, with the reason.
func TestWhatDoesNotStart(t *testing.T) {
	rt, err := host.NewRuntime(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close(t.Context())
	wasm, err := os.ReadFile("../../host/testdata/trap-at-start.wasm")
	if err != nil {
		t.Fatal(err)
	}
	r, err := Module(t.Context(), rt, "trap", wasm)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := r.Print(&out); err != nil || !strings.Contains(out.String(), "not started") {
		t.Errorf("%v\n%s", err, out.String())
	}
	if _, err := Module(t.Context(), rt, "none", []byte("nothing")); err == nil {
		t.Error("nonsense is a module")
	}
}
