package check

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/caplance/caplance/policies"
)

func run(t *testing.T, opt Options) *Report {
	t.Helper()
	opt.Seed = 1
	if opt.Picks == 0 {
		opt.Picks = 20_000
	}
	r, err := Run(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func file(t *testing.T, path string) []byte {
	t.Helper()
	wasm, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return wasm
}

// Each broken guest fails the case that is named after what it breaks, and the
// failure comes with the command that repeats it.
func TestBrokenGuestsFail(t *testing.T) {
	for _, c := range []struct{ guest, fails, rule, says string }{
		{"testdata/garbage.wasm", "pool-1", "M10", "pick answered 1"},
		{"testdata/leaky.wasm", "leak", "M2", "memory grew from 256 KiB"},
		{"testdata/overlapping.wasm", "buffers", "M7", "FLOW (80 bytes at 1024) and INFO (at 1024) overlap"},
		{"testdata/eager.wasm", "unknown-slot", "M8", "slot 12 does not exist"},
		{"testdata/endless.wasm", "pool-2", "M10", "pick 5000"},
		{"testdata/endless.wasm", "fuel", "M11", "pick_fuel"},
		{"testdata/unfair.wasm", "table", "M12, M13", "no slot for backend"},
		{"../../host/testdata/unaligned.wasm", "start", "M6", "align it to 8 bytes"},
		{"../../host/testdata/outside.wasm", "start", "M6", "outside the memory"},
		{"../../host/testdata/command.wasm", "module", "M1–M5", "build it as a library"},
	} {
		// As the reproduction does: that case alone.
		r := run(t, Options{Spec: c.guest, Wasm: file(t, c.guest), Cases: []string{c.fails}})
		i := slices.IndexFunc(r.Outcomes, func(o Outcome) bool { return o.Case == c.fails })
		if i < 0 || r.Outcomes[i].Status != Failed {
			t.Errorf("%s: case %s did not fail", c.guest, c.fails)
			continue
		}
		o := r.Outcomes[i]
		if o.Rule != c.rule || !strings.Contains(o.Detail, c.says) {
			t.Errorf("%s: %s (%s): %s\nwant %q", c.guest, o.Case, o.Rule, o.Detail, c.says)
		}
		if want := "caplance policy check -case " + c.fails + " -seed 1 -picks 20000 " + c.guest; o.Reproduce != want {
			t.Errorf("reproduction %q, want %q", o.Reproduce, want)
		}
	}
}

// What we ship conforms, and what a failure names can be run alone.
func TestBundledPoliciesConform(t *testing.T) {
	for _, name := range policies.Names() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, wasm, err := policies.Load(name)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range run(t, Options{Spec: name, Wasm: wasm}).Outcomes {
				if o.Status == Failed {
					t.Errorf("%s (%s): %s", o.Case, o.Rule, o.Detail)
				}
			}
		})
	}
}

func TestOneCaseAlone(t *testing.T) {
	wasm := file(t, "../../host/testdata/example-wat.wasm")
	for _, name := range Names() {
		r := run(t, Options{Spec: "example", Wasm: wasm, Cases: []string{name}, Picks: 1000})
		if len(r.Outcomes) != 1 || r.Outcomes[0].Case != name {
			t.Errorf("case %s gave %+v", name, r.Outcomes)
		}
	}
	if _, err := Run(t.Context(), Options{Cases: []string{"x"}}); err == nil {
		t.Error("an unknown case was accepted")
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{"a/b-1.wasm": "a/b-1.wasm", `{"a":1}`: `'{"a":1}'`, "it's": `'it'\''s'`, "": "''"} {
		if got := quote(in); got != want {
			t.Errorf("quote(%q) = %s, want %s", in, got, want)
		}
	}
}
