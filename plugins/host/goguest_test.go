package host_test

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
)

// Standard Go is a first-class guest: WASI for its runtime, a garbage
// collector that runs inside picks, buffers that move with every pool.
func TestStandardGoGuest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "go.wasm")
	build := exec.Command("go", "build", "-buildmode=c-shared", "-ldflags=-s -w", "-o", path, "main.go")
	build.Dir = "testdata/goguest"
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("guest cannot be built: %v\n%s", err, out)
	}
	wasm, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := newScheduler(t, wasm, host.Config{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	for _, n := range []int{3, 500, 4} {
		s.SetPool(poolOf(n))
		s.Refresh(make([]uint32, n), nil, nil)
		for k := range 2000 {
			if k%500 == 0 {
				s.Tick(uint64(k))
			}
			f := flowOf(uint64(k))
			if i, by := s.Pick(&f); i != k%n || by != core.ByPolicy {
				t.Fatalf("pick %d of %d backends is %d by %s, want %d by policy: %s", k, n, i, by, k%n, s.Stats().LastError)
			}
		}
	}
}
