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
		why:  "core/verdict is the only importer of go-nfqueue, but for what tools/bench compares with",
		from: []string{"./..."}, except: []string{"./core/verdict", "./tools/bench"}, to: []string{"github.com/florianl/go-nfqueue/..."},
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
		why:  "core/fastpath is the only importer of cilium/ebpf, but for the other end of a test's link",
		from: []string{"./..."}, except: []string{"./core/fastpath", "./e2e/topology"}, to: []string{"github.com/cilium/ebpf/..."},
		example: [2]string{"./core/datapath", "github.com/cilium/ebpf/link"},
	},
	{
		why:  "core is the model: it imports none of our packages",
		from: []string{"./core"}, to: []string{"./..."},
		example: [2]string{"./core", "./core/packet"},
	},
	{
		why:  "core/state derives from the model and from what the network monitor observes",
		from: []string{"./core/state"}, to: only("./core", "./core/netmon"),
		example: [2]string{"./core/state", "./core/registry"},
	},
	{
		why:  "the loop knows no technology",
		from: []string{"./core/reconcile"}, to: []string{"./...", "github.com/..."},
		example: [2]string{"./core/reconcile", "github.com/vishvananda/netlink"},
	},
	{
		why:  "targets know the model, the loop and how to repeat a dump",
		from: []string{"./core/fastpath", "./core/ruleset", "./core/hostnet", "./core/announce"}, to: only("./core", "./core/reconcile", "./core/rtnl"),
		example: [2]string{"./core/fastpath", "./core/config"},
	},
	{
		why:  "core/netmon observes the network and knows nothing else",
		from: []string{"./core/netmon"}, to: only("./core/rtnl"),
		example: [2]string{"./core/netmon", "./core/state"},
	},
	{
		why:  "headers and counters are about the model alone",
		from: []string{"./core/packet", "./core/counters"}, to: only("./core"),
		example: [2]string{"./core/counters", "./core/datapath"},
	},
	{
		why:  "core/flow keeps flows by their packets",
		from: []string{"./core/flow"}, to: only("./core", "./core/packet"),
		example: [2]string{"./core/flow", "./core/datapath"},
	},
	{
		why:  "the verdict loop, forwarders, sd_notify, dumps, sock_diag, privileges and quoting know no other part",
		from: []string{"./core/verdict", "./core/forward", "./core/notify", "./core/plain", "./core/privilege", "./core/rtnl", "./core/sockdiag"}, to: only(),
		example: [2]string{"./core/verdict", "./core/datapath"},
	},
	{
		why:  "a worker reads snapshots, whoever wrote them, and asks a scheduler, whoever it is",
		from: []string{"./core/datapath"}, to: only("./core", "./core/counters", "./core/flow", "./core/packet", "./core/verdict"),
		example: [2]string{"./core/datapath", "./core/state"},
	},
	{
		why:  "core/config reads files and knows no part that they configure, but what a check is",
		from: []string{"./core/config"}, to: only("./core", "./core/plain", "./core/probe", "./core/protocol", "./core/auth"),
		example: [2]string{"./core/config", "./core/fastpath"},
	},
	{
		why:  "core/protocol knows package core alone",
		from: []string{"./core/protocol"}, to: only("./core"),
		example: [2]string{"./core/protocol", "./core/registry"},
	},
	{
		why:  "core/auth proves who somebody is and knows nobody",
		from: []string{"./core/auth"}, to: []string{"./...", "github.com/..."},
		example: [2]string{"./core/auth", "./core"},
	},
	{
		why:  "core/events keeps lines of a log, whose ever they are",
		from: []string{"./core/events"}, to: []string{"./...", "github.com/..."},
		example: [2]string{"./core/events", "./core"},
	},
	{
		why:  "core/enrol keeps who has joined; the registry asks it through functions",
		from: []string{"./core/enrol"}, to: only("./core/api", "./core/auth", "./core/protocol"),
		example: [2]string{"./core/enrol", "./core/registry"},
	},
	{
		why:  "core/registry knows core, the line protocol and who proves an identity",
		from: []string{"./core/registry"}, to: only("./core", "./core/protocol", "./core/auth"),
		example: [2]string{"./core/registry", "./core/datapath"},
	},
	{
		why:  "core/agent knows the line protocol, its targets, its configuration and its socket, not the balancer",
		from: []string{"./core/agent"}, to: only("./core", "./core/protocol", "./core/auth", "./core/probe", "./core/netmon",
			"./core/reconcile", "./core/hostnet", "./core/ruleset", "./core/fastpath", "./core/config", "./core/api", "./core/control", "./core/forward", "./core/notify", "./core/privilege", "./core/rtnl", "./core/witness"),
		example: [2]string{"./core/agent", "./core/registry"},
	},
	{
		why:  "core/probe asks services and the kernel, and knows no protocol of ours",
		from: []string{"./core/probe"}, to: only("./core", "./core/sockdiag"),
		example: [2]string{"./core/probe", "./core/agent"},
	},
	{
		why:  "core/witness tells of sockets what the protocol has words for",
		from: []string{"./core/witness"}, to: only("./core", "./core/protocol", "./core/sockdiag"),
		example: [2]string{"./core/witness", "./core/agent"},
	},
	{
		why:  "core/liveness brings what the protocol says to the flow tables",
		from: []string{"./core/liveness"}, to: only("./core", "./core/datapath", "./core/fastpath", "./core/protocol"),
		example: [2]string{"./core/liveness", "./core/registry"},
	},
	{
		why:  "core/workers runs the packet path for the daemon; its sources and targets are not its business",
		from: []string{"./core/workers"}, to: only("./core", "./core/counters", "./core/datapath", "./core/fastpath", "./core/flow", "./core/forward",
			"./core/ruleset", "./core/status", "./core/undo", "./core/verdict"),
		example: [2]string{"./core/workers", "./core/state"},
	},
	{
		why:  "core/offload turns the fast path on and off, and exchanges flows with the workers",
		from: []string{"./core/offload"}, to: only("./core", "./core/counters", "./core/fastpath", "./core/liveness", "./core/state", "./core/workers"),
		example: [2]string{"./core/offload", "./core/config"},
	},
	{
		why:  "core/succession keeps the state for the next process, beside the flows and in a file",
		from: []string{"./core/succession"}, to: only("./core", "./core/fastpath", "./core/offload", "./core/state"),
		example: [2]string{"./core/succession", "./core/registry"},
	},
	{
		why:  "sources write the state from registry, network monitor and configuration",
		from: []string{"./core/sources"}, to: only("./core", "./core/auth", "./core/config", "./core/forward", "./core/netmon", "./core/probe", "./core/registry", "./core/state", "./core/task"),
		example: [2]string{"./core/sources", "./core/fastpath"},
	},
	{
		why:  "core/admin keeps the operator's orders, a source of the state; what flows there are, it is told",
		from: []string{"./core/admin"}, to: only("./core", "./core/api", "./core/plain", "./core/protocol", "./core/state"),
		example: [2]string{"./core/admin", "./core/registry"},
	},
	{
		why:  "core/reload changes what it names, by the state and the parts' own ways, no target",
		from: []string{"./core/reload"}, to: only("./core", "./core/api", "./core/config", "./core/metrics", "./core/reconcile", "./core/registry", "./core/ruleset",
			"./core/sources", "./core/state", "./core/workers", "./plugins/host", "./plugins/manager"),
		example: [2]string{"./core/reload", "./core/fastpath"},
	},
	{
		why:  "core/task runs anything",
		from: []string{"./core/task", "./core/undo"}, to: only(),
		example: [2]string{"./core/task", "./core/daemon"},
	},
	{
		why:  "core/api defines JSON and serves it, over nothing but the model and what a target is",
		from: []string{"./core/api"}, to: only("./core", "./core/reconcile"),
		example: [2]string{"./core/api", "./core/status"},
	},
	{
		why:  "sockets and metrics show core/api, wherever it comes from",
		from: []string{"./core/control", "./core/metrics"}, to: only("./core", "./core/api"),
		example: [2]string{"./core/control", "./core/status"},
	},
	{
		why:  "core/status puts answers together from what it reads: the store, the counters, flows in workers and kernel, queues, senders, policies",
		from: []string{"./core/status"}, to: only("./core", "./core/api", "./core/counters", "./core/events", "./core/plain", "./core/state", "./core/datapath", "./core/flow",
			"./core/fastpath", "./core/verdict", "./core/forward", "./core/privilege", "./core/reconcile", "./plugins/manager"),
		example: [2]string{"./core/status", "./core/control"},
	},
	{
		why:  "core/doctor tries what kernels have; it needs no balancer for that",
		from: []string{"./core/doctor"}, to: only("./core", "./core/fastpath", "./core/forward", "./core/ruleset", "./core/verdict"),
		example: [2]string{"./core/doctor", "./core/daemon"},
	},
	{
		why:  "core/reload alone brings the policies' host into core; others know the manager",
		from: []string{"./core/..."}, except: []string{"./core/reload"}, to: []string{"./plugins/...", "!./plugins/manager", "./policies/..."},
		example: [2]string{"./core/datapath", "./plugins/host"},
	},
	{
		why:  "core/daemon stands above the rest of core, plugins and policies",
		from: []string{"./core/...", "./plugins/...", "./policies/...", "./tools/...", "./e2e/..."}, to: []string{"./core/daemon"},
		example: [2]string{"./core/packet", "./core/daemon"},
	},
	{
		why:  "plugins know package core and nothing below it but how names are quoted; the manager also writes tables into the state",
		from: []string{"./plugins/..."}, except: []string{"./plugins/manager"}, to: []string{"./core/...", "!./core", "!./core/plain"},
		example: [2]string{"./plugins/host", "./core/flow"},
	},
	{
		why:  "plugins/manager keeps policies: it knows their host, the bundled ones, the state and the format of recordings",
		from: []string{"./plugins/manager"}, to: only("./core", "./core/state", "./plugins/host", "./plugins/recording", "./policies"),
		example: [2]string{"./plugins/manager", "./plugins/workbench/trial"},
	},
	{
		why:  "the host and the format of recordings stand below the workbench",
		from: []string{"./plugins/abi", "./plugins/fuel", "./plugins/host", "./plugins/recording"}, to: only("./core", "./core/plain", "./plugins/abi", "./plugins/fuel"),
		example: [2]string{"./plugins/recording", "./plugins/workbench/replay"},
	},
	{
		why:  "the bundled policies are data, and the reference implementation is about the model",
		from: []string{"./policies", "./policies/reference"}, to: only("./core"),
		example: [2]string{"./policies/reference", "./plugins/host"},
	},
	{
		why:  "caplancectl speaks to sockets",
		from: []string{"./cmd/caplancectl"}, to: only("./core/api", "./core/control", "./core/plain", "./core/version"),
		example: [2]string{"./cmd/caplancectl", "./core/config"},
	},
	{
		why:  "the programs carry no test code",
		from: []string{"./cmd/..."}, to: []string{"./e2e/...", "./tools/...", "./core/nettest/...", "testing"}, whole: true,
		example: [2]string{"./cmd/caplance", "./e2e/cluster"},
	},
	{
		why:  "what tests share, they alone import",
		from: []string{"./..."}, except: []string{"./e2e/cluster"}, to: []string{"./core/nettest", "./core/reconcile/contract", "./core/packet/packettest", "./core/auth/authtest"},
		example: [2]string{"./core/hostnet", "./core/nettest"},
	},
	{
		why:  "core, plugins and policies import e2e and tools in tests only",
		from: []string{"./core/...", "./plugins/...", "./policies/..."}, to: []string{"./e2e/...", "./tools/..."},
		example: [2]string{"./core/agent", "./e2e/topology"},
	},
	{
		why:  "the daemon runs without the authors' workbench",
		from: []string{"./core/..."}, to: []string{"./plugins/workbench/..."}, whole: true,
		example: [2]string{"./core/daemon", "./plugins/workbench/check"},
	},
	{
		why:  "commands are not imported",
		from: []string{"./..."}, to: []string{"./cmd/..."},
		example: [2]string{"./tools/demo", "./cmd/caplance"},
	},
	{
		why:  "no other program is run; plugins/host starts its own as a compiler, core/probe the operator's script, e2e/topology and core/nettest start ours, and tools/bench finds its peers",
		from: []string{"./..."}, except: []string{"./plugins/host", "./core/probe", "./e2e/topology", "./core/nettest", "./tools/bench"}, to: []string{"os/exec"},
		example: [2]string{"./core/hostnet", "os/exec"},
	},
}

// only forbids all of our packages but those allowed.
func only(allowed ...string) []string {
	to := []string{"./..."}
	for _, a := range allowed {
		to = append(to, "!"+a)
	}
	return to
}

// pkg holds what `go list -json` prints of a package.
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

// offences returns the imports of p that the rule forbids.
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

// match reports whether one of the patterns covers path and no "!path" excludes
// it.
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
