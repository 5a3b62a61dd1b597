// Package check is the conformance suite of the policy ABI: each case tries one
// of the numbered MUSTs of docs/policy-abi.md, or one of the guarantees that the
// balancer relies on.
//
//	report, err := check.Run(ctx, check.Options{Spec: "mine.wasm", Wasm: wasm, Seed: 1})
//	if report.Failed > 0 { … }
//
// What a case does depends on nothing but the module and the options, so every
// failure carries the command that repeats it.
package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/caplance/caplance/plugins/host"
)

// Options say what to check and how.
type Options struct {
	Spec       string // how the command line names the module
	Wasm       []byte
	Seed       uint64
	Picks      int      // of the leak case; 0 is DefaultPicks
	Cases      []string // names; none is all
	Consistent bool     // the author promises that the order of the pool does not matter
	Config     []byte   // policy_config as JSON; nil is none
	Vectors    *Vectors // picks that the author expects; nil is none
	// Progress is told what is done of a case that takes long; nil tells nobody.
	Progress func(name string, done, total int)
}

// DefaultPicks is how many picks must not leak.
const DefaultPicks = 1_000_000

// Status is how a case ended.
type Status string

// The results. A note is nothing that the ABI forbids, but the author may want
// to know.
const (
	OK      Status = "ok"
	Note    Status = "note"
	Skipped Status = "skipped"
	Failed  Status = "failed"
)

// Outcome is the result of one case.
type Outcome struct {
	Case      string `json:"case"`
	Rule      string `json:"rule"` // the MUSTs, or what the ABI guarantees
	Status    Status `json:"status"`
	Detail    string `json:"detail"`
	Reproduce string `json:"reproduce,omitempty"` // a command
}

// Report is the result of all.
type Report struct {
	Policy   string    `json:"policy"`
	Seed     uint64    `json:"seed"`
	Failed   int       `json:"failed"`
	Outcomes []Outcome `json:"outcomes"`
}

// testCase is one case; its rule is what docs/policy-abi.md calls it.
type testCase struct {
	name, rule string
	run        func(h *harness) outcome
}

// outcome is what a case has to say.
type outcome struct {
	status Status
	detail string
}

func ok(format string, args ...any) outcome   { return outcome{OK, fmt.Sprintf(format, args...)} }
func note(format string, args ...any) outcome { return outcome{Note, fmt.Sprintf(format, args...)} }
func skipped(format string, args ...any) outcome {
	return outcome{Skipped, fmt.Sprintf(format, args...)}
}
func failed(err error) outcome { return outcome{Failed, err.Error()} }

// Names lists the cases in their order.
func Names() []string {
	out := []string{moduleCase}
	for _, c := range cases {
		out = append(out, c.name)
	}
	return out
}

// moduleCase is the one that all others need.
const moduleCase = "module"

// Run checks a module. A module that is not a policy at all fails the first
// case, and the others are left out.
//
// Errors: a case that does not exist, no memory for an engine, ctx ended.
func Run(ctx context.Context, opt Options) (*Report, error) {
	for _, name := range opt.Cases {
		if !slices.Contains(Names(), name) {
			return nil, fmt.Errorf("case %q is unknown (cases: %s)", name, strings.Join(Names(), ", "))
		}
	}
	if opt.Picks == 0 {
		opt.Picks = DefaultPicks
	}
	rt, err := host.NewRuntime(ctx)
	if err != nil {
		return nil, err
	}
	defer rt.Close(ctx)
	r := &Report{Policy: opt.Spec, Seed: opt.Seed}
	policy, err := rt.Compile(ctx, opt.Spec, opt.Wasm)
	if err != nil {
		r.add(&opt, testCase{name: moduleCase, rule: "M1–M5"}, failed(err))
		return r, nil
	}
	if opt.wants(moduleCase) {
		r.add(&opt, testCase{name: moduleCase, rule: "M1–M5"}, ok("is a policy of ABI v1"))
	}
	h := &harness{ctx: ctx, policy: policy, opt: &opt}
	for _, c := range cases {
		if !opt.wants(c.name) {
			continue
		}
		out := c.run(h)
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("check stopped in case %s: %w", c.name, context.Cause(ctx))
		}
		r.add(&opt, c, out)
	}
	return r, nil
}

func (o *Options) wants(name string) bool { return len(o.Cases) == 0 || slices.Contains(o.Cases, name) }

func (r *Report) add(opt *Options, c testCase, o outcome) {
	out := Outcome{Case: c.name, Rule: c.rule, Status: o.status, Detail: o.detail}
	if o.status == Failed {
		r.Failed++
		out.Reproduce = opt.command(c.name)
	}
	r.Outcomes = append(r.Outcomes, out)
}

// command repeats one case.
func (o *Options) command(name string) string {
	words := []string{"caplance policy check -case", name, "-seed", fmt.Sprint(o.Seed)}
	if o.Picks != DefaultPicks {
		words = append(words, "-picks", fmt.Sprint(o.Picks))
	}
	if o.Consistent {
		words = append(words, "-consistent")
	}
	if o.Config != nil {
		words = append(words, "-config", quote(string(o.Config)))
	}
	if name == vectorsCase && o.Vectors != nil {
		words = append(words, "-vectors", quote(o.Vectors.File))
	}
	return strings.Join(append(words, quote(o.Spec)), " ")
}

// quote makes one word of the shell's out of s.
func quote(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\n'\"$`\\&;|<>()*?[]#~!{}") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
