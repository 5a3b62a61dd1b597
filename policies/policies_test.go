package policies_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caplance/caplance/policies"
	"github.com/google/go-cmp/cmp"
)

func TestNames(t *testing.T) {
	if d := cmp.Diff([]string{"hash", "least-packets", "round-robin"}, policies.Names()); d != "" {
		t.Errorf("bundled policies (-want +got):\n%s", d)
	}
}

func TestLoadBundled(t *testing.T) {
	for _, want := range policies.Names() {
		name, wasm, err := policies.Load(want)
		if err != nil || name != want || len(wasm) == 0 {
			t.Errorf("Load(%q) is %q with %d bytes, %v", want, name, len(wasm), err)
		}
	}
}

func TestLoadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mine.wasm")
	if err := os.WriteFile(path, []byte("\x00asm"), 0o600); err != nil {
		t.Fatal(err)
	}
	name, wasm, err := policies.Load(path)
	if err != nil || name != "mine" || string(wasm) != "\x00asm" {
		t.Errorf("Load(%q) is %q, %q, %v", path, name, wasm, err)
	}
}

func TestLoadErrors(t *testing.T) {
	if _, _, err := policies.Load("fastest"); !errors.Is(err, policies.ErrUnknown) || !strings.Contains(err.Error(), "hash, least-packets, round-robin") {
		t.Errorf("unknown name: %v, want ErrUnknown with the bundled names", err)
	}
	for _, spec := range []string{"no/such", "no-such.wasm"} {
		if _, _, err := policies.Load(spec); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Load(%q): %v, want a missing file", spec, err)
		}
	}
}
