package host_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
)

// example returns a code block of docs/policy-abi.md and the command after it.
func example(t *testing.T, lang string) (source string, command []string) {
	t.Helper()
	doc, err := os.ReadFile("../../docs/policy-abi.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(doc), "```"+lang+"\n")
	if !ok {
		t.Fatalf("document has no example in %s", lang)
	}
	source, rest, _ = strings.Cut(rest, "```")
	_, rest, _ = strings.Cut(rest, "```sh\n")
	line, _, _ := strings.Cut(rest, "\n")
	return source, strings.Fields(line)
}

// modules returns the example as committed and, where the tool is installed, as
// the document's own command builds it.
func modules(t *testing.T, lang string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{"committed": testdata(t, "example-"+lang+".wasm")}
	source, command := example(t, lang)
	if _, err := exec.LookPath(command[0]); err != nil {
		t.Logf("%s is not installed: only the committed module is tested", command[0])
		return out
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "example."+lang), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.Command(command[0], command[1:]...)
	build.Dir = dir
	if msg, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, msg)
	}
	wasm, err := os.ReadFile(filepath.Join(dir, "example-"+lang+".wasm"))
	if err != nil {
		t.Fatal(err)
	}
	out["built"] = wasm
	return out
}

func TestExampleInWAT(t *testing.T) {
	for name, wasm := range modules(t, "wat") {
		s := newScheduler(t, wasm, host.Config{})
		s.SetPool(poolOf(7))
		for k := range uint64(50) {
			f := flowOf(k)
			if i, by := s.Pick(&f); i != int(f.Hash%7) || by != core.ByPolicy {
				t.Errorf("%s: pick is %d by %s, want %d by policy", name, i, by, f.Hash%7)
			}
		}
	}
}

func TestExampleInC(t *testing.T) {
	for name, wasm := range modules(t, "c") {
		s := newScheduler(t, wasm, host.Config{})
		s.SetPool(poolOf(7))
		var open [7]uint32
		for k := range uint64(700) {
			f := flowOf(k)
			a, b := uint32(f.Rand)%7, uint32(f.Rand>>32)%7
			want := a
			if open[b] < open[a] {
				want = b
			}
			open[want]++
			if i, by := s.Pick(&f); i != int(want) || by != core.ByPolicy {
				t.Fatalf("%s: pick %d is %d by %s, want %d by policy", name, k, i, by, want)
			}
		}
	}
}
