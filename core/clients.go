package core

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// Clients says which clients a service takes, by prefixes of their addresses: the
// longest that an address is in decides. It is immutable, and nil for services that
// take everybody.
type Clients struct {
	rules []ClientRule // by address, then length
	taken bool         // what becomes of those in no prefix
	v4    ranges[uint32]
	v6    ranges[[2]uint64]
}

// ClientRule is a prefix, and what becomes of the clients in it.
type ClientRule struct {
	Prefix netip.Prefix // masked, never of IPv4 mapped into IPv6
	Allow  bool
}

// ClientFile is a file of prefixes.
type ClientFile struct {
	Path string // "": none
	Sum  string // what tells its content from another
}

// NewClients returns who is taken by two lists, nil if both are empty. Where there is
// a list of those who are, all others are not. Prefixes may come more than once.
//
// Errors: a prefix is in both lists.
func NewClients(allow, deny []netip.Prefix) (*Clients, error) {
	if len(allow)+len(deny) == 0 {
		return nil, nil
	}
	c := &Clients{taken: len(allow) == 0, rules: make([]ClientRule, 0, len(allow)+len(deny))}
	for _, p := range allow {
		c.rules = append(c.rules, ClientRule{p.Masked(), true})
	}
	for _, p := range deny {
		c.rules = append(c.rules, ClientRule{p.Masked(), false})
	}
	slices.SortFunc(c.rules, func(a, b ClientRule) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
	})
	c.rules = slices.Compact(c.rules)
	for i := 1; i < len(c.rules); i++ {
		if c.rules[i].Prefix == c.rules[i-1].Prefix {
			return nil, fmt.Errorf("%v is both allowed and denied", c.rules[i].Prefix)
		}
	}
	at, _ := slices.BinarySearchFunc(c.rules, true, func(r ClientRule, _ bool) int {
		if r.Prefix.Addr().Is4() {
			return -1
		}
		return 0
	})
	c.v4.compile(c.rules[:at], c.taken, func(a netip.Addr) uint32 { b := a.As4(); return binary.BigEndian.Uint32(b[:]) })
	c.v6.compile(c.rules[at:], c.taken, func(a netip.Addr) [2]uint64 { b := a.As16(); return words(&b) })
	return c, nil
}

// Rules returns the prefixes in order of their addresses, which must not be changed,
// and whether those in none of them are taken.
func (c *Clients) Rules() (list []ClientRule, others bool) { return c.rules, c.taken }

// Equal reports whether two are made of the same.
func (c *Clients) Equal(o *Clients) bool {
	return c == o || c != nil && o != nil && c.taken == o.taken && slices.Equal(c.rules, o.rules)
}

// Allows reports whether a client is taken. It allocates nothing.
func (c *Clients) Allows(addr *[16]byte) bool {
	if c == nil {
		return true
	}
	w := words(addr)
	if w[0] == 0 && w[1]>>32 == 0xffff {
		at, found := slices.BinarySearch(c.v4.starts, uint32(w[1]))
		return c.v4.at(at, found)
	}
	at, found := slices.BinarySearchFunc(c.v6.starts, w, compareWords)
	return c.v6.at(at, found)
}

// Rule returns the prefix that decides on a client; ok is false if it is in none. It
// looks at all of them.
func (c *Clients) Rule(addr netip.Addr) (rule ClientRule, ok bool) {
	for _, r := range c.rules { // longer ones come later
		if r.Prefix.Contains(addr.Unmap()) {
			rule, ok = r, true
		}
	}
	return rule, ok
}

// words returns an address as two numbers that are in its order.
func words(a *[16]byte) [2]uint64 {
	return [2]uint64{binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])}
}

func compareWords(a, b [2]uint64) int {
	return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1]))
}

// ranges are the addresses of one family, cut where what becomes of them changes.
type ranges[A any] struct {
	starts []A
	allow  []bool
	before bool // of addresses before the first start
}

// at returns what a search in starts tells.
func (r *ranges[A]) at(i int, found bool) bool {
	switch {
	case found:
		return r.allow[i]
	case i == 0:
		return r.before
	}
	return r.allow[i-1]
}

// compile makes ranges of prefixes, which are in order: one that is within another comes
// after it.
func (r *ranges[A]) compile(rules []ClientRule, others bool, number func(netip.Addr) A) {
	r.before = others
	var last netip.Addr // of the starts
	now := others       // from there on
	start := func(a netip.Addr, allow bool) {
		switch {
		case allow == now:
		case a == last: // it was another's for no address
			r.allow[len(r.allow)-1], now = allow, allow
		default:
			r.starts, r.allow, last, now = append(r.starts, number(a)), append(r.allow, allow), a, allow
		}
	}
	var around []ClientRule // those that the last one is in, and itself
	leave := func() {
		inner := around[len(around)-1]
		around = around[:len(around)-1]
		allow := others
		if len(around) > 0 {
			allow = around[len(around)-1].Allow
		}
		if next := lastOf(inner.Prefix).Next(); next.IsValid() {
			start(next, allow)
		}
	}
	for _, rule := range rules {
		for len(around) > 0 && !around[len(around)-1].Prefix.Contains(rule.Prefix.Addr()) {
			leave()
		}
		start(rule.Prefix.Addr(), rule.Allow)
		around = append(around, rule)
	}
	for len(around) > 0 {
		leave()
	}
}

// lastOf returns the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
