// Package sdk_test holds the SDKs of all languages to the same picks.
package sdk_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/policies"
	"github.com/google/go-cmp/cmp"
)

// trio are the policies that every SDK has as examples.
var trio = []string{"round-robin", "hash", "least-packets"}

// languages are those whose examples are committed as .wasm, with what it takes
// to build them.
var languages = map[string]string{
	"c":              "clang and wasm-ld (apt-get install clang lld)",
	"rust":           "rustc with wasm32-unknown-unknown (apt-get install rustc libstd-rust-dev-wasm32)",
	"assemblyscript": "AssemblyScript (apt-get install nodejs npm; npm ci --prefix plugins/sdk/assemblyscript)",
}

// steps are what happens to a service, one pool after the other: the weight of
// each backend, 0 for one that is not there, and what the counters become.
var steps = []struct {
	weights []uint32
	packets []uint64
}{
	{[]uint32{1, 1, 1, 2, 3}, nil},
	{[]uint32{1, 1, 1, 2, 3}, []uint64{90, 20, 20, 60, 60}},
	{[]uint32{1, 0, 1, 2, 3, 5}, nil}, // one leaves, one joins
	{[]uint32{1, 4, 1, 2, 3, 5}, []uint64{7, 0, 300, 200, 100, 5}},
	{[]uint32{10, 4, 1, 2, 9, 5}, nil},                // weights change
	{[]uint32{0, 0, 0, 0, 0, 7}, []uint64{700}},       // one is left
	{[]uint32{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5}, nil},  // many come
	{[]uint32{1, 1, 65535, 1, 1, 1, 1, 1, 1, 1}, nil}, // one is heavy
}

// vectors returns the names of the backends that a guest picks in all steps.
func vectors(t *testing.T, name string, wasm []byte) []string {
	t.Helper()
	ctx := context.Background()
	rt, err := host.NewRuntime(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close(ctx)
	p, err := rt.Compile(ctx, name, wasm)
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.NewScheduler(ctx, host.Config{Worker: 1, Workers: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	builder := core.NewPoolBuilder(&core.Service{Name: "web"})
	rng := rand.New(rand.NewPCG(3, 4))
	var picks []string
	for i, step := range steps {
		pool := builder.Build(backends(step.weights))
		s.SetPool(pool)
		if step.packets != nil {
			s.Refresh(nil, step.packets, nil)
		}
		for range 200 {
			f := core.NewFlow{Hash: rng.Uint64(), Rand: rng.Uint64(), Family: 4, Flags: core.FlowSYN}
			b, by := s.Pick(&f)
			if by != core.ByPolicy {
				t.Fatalf("step %d: pick is %d by %s: %s", i, b, by, s.Stats().LastError)
			}
			picks = append(picks, pool.Members[b].Name)
		}
	}
	return picks
}

func backends(weights []uint32) (out []core.Backend) {
	for i, w := range weights {
		if w > 0 {
			out = append(out, core.Backend{
				Name: fmt.Sprintf("b%02d", i), Weight: w, Since: time.Unix(1, 0), Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}),
			})
		}
	}
	return out
}

// demand compares a guest's picks with the bundled policy's.
func demand(t *testing.T, policy, path string) {
	t.Helper()
	wasm, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, bundled, err := policies.Load(policy)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(vectors(t, policy, bundled), vectors(t, policy, wasm)); d != "" {
		t.Errorf("picks of %s (-bundled +SDK):\n%s", filepath.Base(path), d)
	}
}

// Every SDK's examples pick what the bundled policies pick: on any machine, by
// the committed files, and Go's by the toolchain that runs this test.
func TestAllLanguagesPickAlike(t *testing.T) {
	for _, policy := range trio {
		for language := range languages {
			t.Run(language+"/"+policy, func(t *testing.T) {
				demand(t, policy, filepath.Join("testdata", language+"-"+policy+".wasm"))
			})
		}
		t.Run("go/"+policy, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), policy+".wasm")
			build := exec.Command("go", "build", "-buildvcs=false", "-buildmode=c-shared", "-ldflags=-s -w", "-o", out, "./go/examples/"+policy)
			build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=", "CGO_ENABLED=0")
			if text, err := build.CombinedOutput(); err != nil {
				t.Fatalf("example cannot be built: %v\n%s", err, text)
			}
			demand(t, policy, out)
		})
	}
}

// The committed files are what the sources make.
func TestExamplesBuild(t *testing.T) {
	for language, tools := range languages {
		t.Run(language, func(t *testing.T) {
			out := t.TempDir()
			text, err := exec.Command("../../tools/policies/examples.sh", out, language).CombinedOutput()
			if err != nil && strings.Contains(string(text), "missing") {
				nettest.Missing(t, tools)
			}
			if err != nil {
				t.Fatalf("examples cannot be built: %v\n%s", err, text)
			}
			for _, policy := range trio {
				demand(t, policy, filepath.Join(out, language+"-"+policy+".wasm"))
			}
		})
	}
}

// An SDK is short enough to be read before it is trusted.
func TestSDKsAreShort(t *testing.T) {
	for _, path := range []string{"c/caplance.h", "go/caplance.go", "go/guest.go", "rust/lib.rs", "assemblyscript/caplance.ts"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), "\n"); n > 200 {
			t.Errorf("%s has %d lines, want at most 200", path, n)
		}
	}
}
