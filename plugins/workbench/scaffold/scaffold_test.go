package scaffold

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/plugins/workbench/check"
)

// toolchain finds what a language's Makefile needs, as settings for make; it
// ends the test where that is missing.
func toolchain(t *testing.T, language string) []string {
	t.Helper()
	need := func(tools ...string) {
		for _, tool := range tools {
			if _, err := exec.LookPath(tool); err != nil {
				nettest.Missing(t, tool)
			}
		}
	}
	need("make")
	switch language {
	case "c":
		need("clang", "wasm-ld")
	case "go":
		need("go")
	case "wat":
		need("wat2wasm")
	case "rust":
		// Debian's has the target; one of rustup's before it on the PATH may not.
		for _, rustc := range []string{"/usr/bin/rustc", "rustc"} {
			dir, err := exec.Command(rustc, "--print", "target-libdir", "--target", "wasm32-unknown-unknown").Output()
			if _, missing := os.Stat(strings.TrimSpace(string(dir))); err == nil && missing == nil {
				return []string{"RUSTC=" + rustc}
			}
		}
		nettest.Missing(t, "rustc with wasm32-unknown-unknown (apt-get install rustc libstd-rust-dev-wasm32)")
	case "assemblyscript":
		need("node")
		asc, err := filepath.Abs("../../sdk/assemblyscript/node_modules/.bin/asc")
		if _, missing := os.Stat(asc); err != nil || missing != nil {
			nettest.Missing(t, "AssemblyScript (npm ci --prefix plugins/sdk/assemblyscript)")
		}
		return []string{"ASC=" + asc}
	}
	return nil
}

// What New writes builds with one command, conforms, and makes the picks of its
// vectors, which are the same in every language.
func TestTemplates(t *testing.T) {
	for _, language := range Languages() {
		t.Run(language, func(t *testing.T) {
			settings := toolchain(t, language)
			dir := filepath.Join(t.TempDir(), "two-choices")
			if _, err := New(dir, language); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("make", append([]string{"-C", dir, "two-choices.wasm"}, settings...)...)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			wasm, err := os.ReadFile(filepath.Join(dir, "two-choices.wasm"))
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(filepath.Join(dir, "vectors.json"))
			if err != nil {
				t.Fatal(err)
			}
			vectors, err := check.ParseVectors("vectors.json", text)
			if err != nil {
				t.Fatal(err)
			}
			report, err := check.Run(t.Context(), check.Options{Spec: "two-choices.wasm", Wasm: wasm, Seed: 1, Picks: 50_000, Vectors: vectors})
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range report.Outcomes {
				if o.Status == check.Failed || o.Case == "vectors" && o.Status != check.OK {
					t.Errorf("%s: %s", o.Case, o.Detail)
				}
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir("there", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, language, want string }{
		{"Mine", "c", "will not do"}, {"a b", "c", "will not do"}, {"", "c", "will not do"}, {"../x'", "c", "will not do"},
		{"mine", "cobol", "unknown (languages: assemblyscript, c, go, rust, wat)"},
		{"there", "c", "is there already"}, {"no/such/mine", "c", "cannot be made"},
	} {
		if _, err := New(c.name, c.language); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("New(%q, %q): %v, want %q", c.name, c.language, err, c.want)
		}
	}
}
