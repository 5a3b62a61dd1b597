// Package imports keeps the rules of the design about who may import whom.
// They hold for what is built, not for tests.
//
//	go test ./tools/imports
package imports

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/caplance/caplance"

// rule forbids the packages in from, but those in except, to import those in
// to. Patterns are import paths, ours from "./" on; "/..." is a package and
// all below it.
type rule struct {
	why              string
	from, except, to []string
	whole            bool      // also what the imports import
	example          [2]string // a package and an import that offends
}

var rules = []rule{
	{
		why:  "core/verdict is the only importer of go-nfqueue",
		from: []string{"./..."}, except: []string{"./core/verdict"}, to: []string{"github.com/florianl/go-nfqueue/..."},
		example: [2]string{"./core/daemon", "github.com/florianl/go-nfqueue/v2"},
	},
	{
		why:  "core/ruleset is the only importer of google/nftables, but for what tools/bench compares with",
		from: []string{"./..."}, except: []string{"./core/ruleset", "./tools/bench"}, to: []string{"github.com/google/nftables/..."},
		example: [2]string{"./core/agent", "github.com/google/nftables/expr"},
	},
	{
		why:  "plugins/host is the only importer of wazero",
		from: []string{"./..."}, except: []string{"./plugins/host"}, to: []string{"github.com/tetratelabs/wazero/..."},
		example: [2]string{"./core/daemon", "github.com/tetratelabs/wazero"},
	},
	{
		why:  "core/fastpath is the only importer of cilium/ebpf",
		from: []string{"./..."}, except: []string{"./core/fastpath"}, to: []string{"github.com/cilium/ebpf/..."},
		example: [2]string{"./core/datapath", "github.com/cilium/ebpf/link"},
	},
	{
		why:  "package core imports nothing of ours",
		from: []string{"./core"}, to: []string{"./..."},
		example: [2]string{"./core", "./core/packet"},
	},
	{
		why:  "core/daemon alone brings policies and their host into core",
		from: []string{"./core/..."}, except: []string{"./core/daemon"}, to: []string{"./plugins/host", "./policies"},
		example: [2]string{"./core/datapath", "./plugins/host"},
	},
	{
		why:  "core/daemon stands above the rest of core, plugins and policies",
		from: []string{"./core/...", "./plugins/...", "./policies/..."}, to: []string{"./core/daemon"},
		example: [2]string{"./core/packet", "./core/daemon"},
	},
	{
		why:  "plugins know package core and nothing below it",
		from: []string{"./plugins/..."}, to: []string{"./core/...", "!./core"},
		example: [2]string{"./plugins/host", "./core/flow"},
	},
	{
		why:  "the programs carry no test code",
		from: []string{"./cmd/..."}, to: []string{"./e2e/...", "./tools/...", "testing"}, whole: true,
		example: [2]string{"./cmd/caplance", "./e2e/cluster"},
	},
	{
		why:  "commands are not imported",
		from: []string{"./..."}, to: []string{"./cmd/..."},
		example: [2]string{"./tools/demo", "./cmd/caplance"},
	},
	{
		why:  "no other program is run; only e2e/topology and e2e/require start our own, and tools/bench finds its peers",
		from: []string{"./..."}, except: []string{"./e2e/topology", "./e2e/require", "./tools/bench"}, to: []string{"os/exec"},
		example: [2]string{"./core/hostnet", "os/exec"},
	},
}

// pkg is what `go list -json` says of a package.
type pkg struct {
	ImportPath    string
	Imports, Deps []string
}

func TestRules(t *testing.T) {
	pkgs, err := list()
	if err != nil {
		t.Fatal(err)
	}
	if len(pkgs) < 10 {
		t.Fatalf("go list found %d packages: the rules were not checked", len(pkgs))
	}
	for _, r := range rules {
		for _, p := range pkgs {
			for _, bad := range r.offences(p) {
				t.Errorf("%s: %s imports %s", r.why, short(p.ImportPath), bad)
			}
		}
	}
}

// Every rule finds its example, and finds nothing wrong with its exceptions.
func TestRulesBite(t *testing.T) {
	for _, r := range rules {
		imports := []string{"fmt", full(r.example[1])}
		if got := r.offences(pkg{full(r.example[0]), imports, imports}); !slices.Equal(got, r.example[1:]) {
			t.Errorf("%s: %s importing %s offends by %v", r.why, r.example[0], r.example[1], got)
		}
		for _, e := range r.except {
			if got := r.offences(pkg{full(e), imports, imports}); len(got) > 0 {
				t.Errorf("%s: %s, an exception, offends by %v", r.why, e, got)
			}
		}
	}
}

// offences are the imports of p that the rule forbids.
func (r rule) offences(p pkg) (bad []string) {
	from := short(p.ImportPath)
	if !match(r.from, from) || match(r.except, from) {
		return nil
	}
	imports := p.Imports
	if r.whole {
		imports = p.Deps
	}
	for _, i := range imports {
		if i = short(i); match(r.to, i) {
			bad = append(bad, i)
		}
	}
	return bad
}

// match says whether one of the patterns covers path and no "!path" excludes it.
func match(patterns []string, path string) bool {
	if slices.Contains(patterns, "!"+path) {
		return false
	}
	return slices.ContainsFunc(patterns, func(p string) bool {
		base, below := strings.CutSuffix(p, "/...")
		return path == base || below && strings.HasPrefix(path, base+"/")
	})
}

// short writes our import paths from "./" on, full undoes it.
func short(path string) string {
	if rest, ours := strings.CutPrefix(path, module); ours {
		return "." + rest
	}
	return path
}

func full(path string) string {
	if rest, ours := strings.CutPrefix(path, "."); ours {
		return module + rest
	}
	return path
}

// list asks the go command for every package of the module.
func list() (pkgs []pkg, err error) {
	var complaint strings.Builder
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", module+"/...")
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w\n%s", err, &complaint)
	}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: output: %w", err)
		}
		pkgs = append(pkgs, p)
	}
}
