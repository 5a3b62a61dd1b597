package policies_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caplance/caplance/policies"
	"github.com/google/go-cmp/cmp"
)

func TestNames(t *testing.T) {
	want := []string{
		"hash", "least-bytes", "least-connections", "least-load", "least-packets", "maglev", "power-of-two-choices", "random",
		"round-robin", "source-hash", "sticky-failover", "weighted-least-connections", "weighted-round-robin",
	}
	if d := cmp.Diff(want, policies.Names()); d != "" {
		t.Errorf("bundled policies (-want +got):\n%s", d)
	}
}

// Every policy is described, in the code and in the package's table.
func TestDescriptions(t *testing.T) {
	source, err := os.ReadFile("policies.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range policies.Names() {
		consistent := "no"
		if policies.Consistent(name) {
			consistent = "yes"
		}
		fields := []string{name, policies.Describe(name), consistent}
		row := regexp.MustCompile(`(?m)^//\t` + strings.Join(fields, ` +`) + `$`)
		if fields[1] == "" || !row.Match(source) {
			t.Errorf("package comment has no row %q", fields)
		}
	}
	if policies.Describe("fastest") != "" || policies.Consistent("fastest") {
		t.Error("an unknown policy is described")
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
	if _, _, err := policies.Load("fastest"); !errors.Is(err, policies.ErrUnknown) || !strings.Contains(err.Error(), "hash, least-bytes, least-connections") {
		t.Errorf("unknown name: %v, want ErrUnknown with the bundled names", err)
	}
	for _, spec := range []string{"no/such", "no-such.wasm"} {
		if _, _, err := policies.Load(spec); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Load(%q): %v, want a missing file", spec, err)
		}
	}
}
