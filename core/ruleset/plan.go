package ruleset

import (
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// plan is what the table of one family is to hold.
type plan struct {
	family family
	sets   []set
	chains []chain // those that are jumped to first
}

// set is a named set. Elements are put in as listed, and taken out the other
// way.
type set struct {
	name     string
	key      nftables.SetDatatype
	interval bool
	want     elements
	in       []string // chains whose rules look it up

	exact  bool          // nothing besides is kept by Add: what the machine is not to have any more, it has not
	learns time.Duration // not 0: rules put elements in, which stay for so long
}

// chain is a chain and its rules.
type chain struct {
	name  string
	hook  *hook // nil: jumped to
	rules []rule
}

// hook is where a chain is called from.
type hook struct {
	num      nftables.ChainHook
	priority nftables.ChainPriority
}

func (h *hook) String() string {
	if h == nil {
		return "no hook"
	}
	return fmt.Sprintf("hook %d priority %d", h.num, h.priority)
}

// rule is a rule. Two with one comment do the same: whatever their effect
// depends on is part of the comment, which is at most 128 bytes long.
type rule struct {
	comment string
	build   func(*builder) []expr.Any
}

// version is part of every comment: a successor that builds its rules in
// another way raises it and so replaces them.
const version = "v2"

func newRule(build func(*builder) []expr.Any, format string, args ...any) rule {
	return rule{comment: fmt.Sprintf(format, args...) + " (" + version + ")", build: build}
}

// maxLearned is how many elements rules may put into a set; no more are learned then.
const maxLearned = 1 << 16

// table returns the set as nftables knows it.
func (s *set) table(t *nftables.Table) *nftables.Set {
	out := &nftables.Set{Table: t, Name: s.name, KeyType: s.key, Interval: s.interval, Concatenation: s.interval}
	if s.learns != 0 {
		out.Dynamic, out.HasTimeout, out.Timeout, out.Size = true, true, s.learns, maxLearned
	}
	return out
}

// users returns the chains that look the set up.
func (s *set) users(p *plan) []chain {
	var out []chain
	for _, c := range p.chains {
		if slices.Contains(s.in, c.name) {
			out = append(out, c)
		}
	}
	return out
}

func (c *chain) comments() []string {
	out := make([]string, len(c.rules))
	for i, r := range c.rules {
		out[i] = r.comment
	}
	return out
}
