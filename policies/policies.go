// Package policies holds the bundled scheduling policies: one C source and
// the .wasm built from it each, embedded, so that a user needs no compiler.
// tools/policies/build.sh rebuilds them.
//
//	name, wasm, err := policies.Load("round-robin")
//	name, wasm, err := policies.Load("/etc/caplance/mine.wasm")
//
// These there are. The consistent ones pick the same backend for the same flow
// whoever asks, and move few flows when the pool changes.
//
//	NAME                        PICKS                                                      CONSISTENT
//	hash                        the 5-tuple decides, by a Maglev table                     yes
//	least-bytes                 fewest bytes sent per weight                               no
//	least-connections           fewest open flows, weights aside                           no
//	least-load                  of two at random the one with less pressure on its CPUs    no
//	least-packets               fewest packets sent per weight                             no
//	maglev                      as hash, by a table in the balancer, without asking        yes
//	power-of-two-choices        of two at random the one with fewer open flows per weight  no
//	random                      any, by weight                                             no
//	round-robin                 each in turn, by weight                                    no
//	source-hash                 the client's address decides, by a Maglev table            yes
//	sticky-failover             lowest priority value that is up, among equals as hash     yes
//	weighted-least-connections  fewest open flows per weight                               no
//	weighted-round-robin        each in turn, smoothly, by weight and slow start           no
//
// Slow start counts in weighted-round-robin, random, power-of-two-choices and
// least-*. A backend that is full (max_flows) is passed over by all of them.
// Package reference implements each once more in Go.
package policies

import (
	"embed"
	"io/fs"
	"strings"
)

//go:embed *.wasm
var bundled embed.FS

const suffix = ".wasm"

// Names lists the bundled policies in alphabetical order.
func Names() []string {
	files, err := fs.Glob(bundled, "*"+suffix)
	if err != nil {
		panic(err) // the pattern is wrong
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(f, suffix)
	}
	return files
}
