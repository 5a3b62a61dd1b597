package ruleset

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/caplance/caplance/core"
	"github.com/google/nftables"
)

// elements is the content of a named set: the bytes of a key, with ranges of
// ports before it when the set has intervals. The ranges of a key are sorted,
// disjoint and not adjacent.
//
// The ports come first because kernels before 6.11 find wrong elements when the
// first field of a concatenation is not the one with the most values
// (791a615b7ad2, "nf_set_pipapo: fix initial map fill").
type elements map[string][]core.PortRange

// cover adds ranges to those of a key.
func (e elements) cover(key string, ranges ...core.PortRange) {
	e[key] = merge(append(slices.Clone(e[key]), ranges...))
}

// merge sorts ranges and joins those that overlap or touch.
func merge(ranges []core.PortRange) []core.PortRange {
	slices.SortFunc(ranges, func(a, b core.PortRange) int { return int(a.First) - int(b.First) })
	var out []core.PortRange
	for _, r := range ranges {
		if n := len(out); n > 0 && int(r.First) <= int(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
		} else {
			out = append(out, r)
		}
	}
	return out
}

// union returns what is in one of the two.
func union(a, b elements) elements {
	out := make(elements, max(len(a), len(b)))
	for _, e := range []elements{a, b} {
		for key, ranges := range e {
			out.cover(key, ranges...)
		}
	}
	return out
}

// has reports whether e has all that sub has, and the first key that lacks.
func (e elements) has(sub elements) (missing string, ok bool) {
	for key, ranges := range sub {
		have, there := e[key]
		if !there || !contains(have, ranges) {
			return key, false
		}
	}
	return "", true
}

// contains reports whether every range of sub lies in one of ranges.
func contains(ranges, sub []core.PortRange) bool {
	for _, s := range sub {
		if !slices.ContainsFunc(ranges, func(r core.PortRange) bool { return r.First <= s.First && s.Last <= r.Last }) {
			return false
		}
	}
	return true
}

// change is what becomes of one key.
type change struct{ del, add []nftables.SetElement }

// changes returns how to come from have to want. An element cannot overlap
// another, so that a key's deletions and additions belong in one batch.
func changes(have, want elements) []change {
	var out []change
	for key := range union(have, want) {
		was, had := have[key]
		is, has := want[key]
		c := change{del: lacking(key, was, had, is, has), add: lacking(key, is, has, was, had)}
		if len(c.del)+len(c.add) > 0 {
			out = append(out, c)
		}
	}
	return out
}

// lacking returns the elements of the first content of a key that the other
// does not have.
func lacking(key string, ranges []core.PortRange, is bool, other []core.PortRange, was bool) []nftables.SetElement {
	if is && len(ranges) == 0 && !was {
		return []nftables.SetElement{{Key: []byte(key)}}
	}
	var out []nftables.SetElement
	for _, r := range ranges {
		if !slices.Contains(other, r) {
			out = append(out, nftables.SetElement{Key: withPort(key, r.First), KeyEnd: withPort(key, r.Last)})
		}
	}
	return out
}

// withPort puts a port, as it stands in a register, before a key.
func withPort(key string, port uint16) []byte {
	return append([]byte{byte(port >> 8), byte(port), 0, 0}, key...)
}

// decode reads the elements of a set. ok is false when there are some that
// only somebody else can have made.
func decode(list []nftables.SetElement, interval bool) (out elements, ok bool) {
	out, ok = elements{}, true
	for _, e := range list {
		switch {
		case !interval:
			out[string(e.Key)] = nil
		case len(e.Key) < 4 || len(e.KeyEnd) != len(e.Key) || !bytes.Equal(e.Key[4:], e.KeyEnd[4:]):
			ok = false
		default:
			key := string(e.Key[4:])
			out[key] = append(out[key], core.PortRange{First: binary.BigEndian.Uint16(e.Key), Last: binary.BigEndian.Uint16(e.KeyEnd)})
		}
	}
	for _, ranges := range out {
		slices.SortFunc(ranges, func(a, b core.PortRange) int { return int(a.First) - int(b.First) })
	}
	return out, ok
}
