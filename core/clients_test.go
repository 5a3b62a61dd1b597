package core

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestClients(t *testing.T) {
	for _, tt := range []struct {
		name        string
		allow, deny []netip.Prefix
		taken, not  []string
	}{
		{"a list of those who are", prefixes("10.0.0.0/8", "2001:db8::/32"), nil, []string{"10.0.0.0", "10.255.255.255", "2001:db8::1"}, []string{"9.255.255.255", "11.0.0.0", "2001:db9::", "::1"}},
		{"of those who are not", nil, prefixes("10.0.0.0/8"), []string{"9.255.255.255", "11.0.0.0", "::1", "::a00:1"}, []string{"10.1.2.3"}},
		{"the longest decides", prefixes("10.0.0.0/8", "10.1.2.0/24"), prefixes("10.1.0.0/16", "10.1.2.3/32"), []string{"10.0.0.1", "10.1.2.2", "10.1.2.4", "10.2.0.0"}, []string{"10.1.0.0", "10.1.2.3", "10.1.3.0", "11.0.0.0"}},
		{"all of IPv6 is none of IPv4", nil, prefixes("::/0"), []string{"10.0.0.1"}, []string{"::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}},
		{"all of IPv4", prefixes("0.0.0.0/0"), prefixes("255.255.255.255/32"), []string{"0.0.0.0", "255.255.255.254"}, []string{"255.255.255.255", "::1"}},
		{"one within another from the start", prefixes("10.0.0.0/8"), prefixes("10.0.0.0/16"), []string{"10.1.0.0"}, []string{"10.0.0.0", "10.0.255.255"}},
		{"to the end", prefixes("10.0.0.0/8"), prefixes("10.255.0.0/16"), []string{"10.254.0.0"}, []string{"10.255.255.255", "11.0.0.0"}},
		{"one after another", prefixes("10.0.0.0/9", "10.128.0.0/9"), prefixes("11.0.0.0/8"), []string{"10.127.255.255", "10.128.0.0"}, []string{"11.0.0.0", "12.0.0.0"}},
		{"twice", prefixes("10.0.0.0/8", "10.0.0.7/8"), nil, []string{"10.0.0.1"}, []string{"11.0.0.0"}},
	} {
		c, err := NewClients(tt.allow, tt.deny)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		for want, list := range map[bool][]string{true: tt.taken, false: tt.not} {
			for _, a := range list {
				addr := netip.MustParseAddr(a)
				if b := addr.As16(); c.Allows(&b) != want {
					t.Errorf("%s: %s is taken: %v", tt.name, a, !want)
				}
				if r, ok := c.Rule(addr); ok && r.Allow != want {
					t.Errorf("%s: %s: %+v decides", tt.name, a, r)
				}
			}
		}
	}
	if c, err := NewClients(nil, nil); c != nil || err != nil || !c.Allows(&[16]byte{}) {
		t.Error("no list refuses somebody")
	}
	if _, err := NewClients(prefixes("10.0.0.0/8"), prefixes("10.1.2.3/8")); err == nil || err.Error() != "10.0.0.0/8 is both allowed and denied" {
		t.Errorf("a prefix in both lists: %v", err)
	}
}

// clients returns a service's with n prefixes at random.
func clients(t testing.TB, n int) *Clients {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	var lists [2][]netip.Prefix
	seen := map[netip.Prefix]bool{}
	for len(seen) < n {
		var p netip.Prefix
		if r.IntN(4) == 0 {
			a := [16]byte{0x20, 1, 0xd, 0xb8}
			binary.BigEndian.PutUint64(a[4:], r.Uint64())
			p = netip.PrefixFrom(netip.AddrFrom16(a), 32+r.IntN(97))
		} else {
			var a [4]byte
			binary.BigEndian.PutUint32(a[:], r.Uint32())
			p = netip.PrefixFrom(netip.AddrFrom4(a), 4+r.IntN(29))
		}
		if p = p.Masked(); !seen[p] {
			seen[p] = true
			i := r.IntN(2)
			lists[i] = append(lists[i], p)
		}
	}
	c, err := NewClients(lists[0], lists[1])
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Ranges say of each address what the longest prefix does.
func TestClientsEqualTheirRules(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for _, n := range []int{1, 2, 10, 1000} {
		c := clients(t, n)
		rules, others := c.Rules()
		for range 20_000 / n {
			rule := rules[r.IntN(len(rules))].Prefix
			for _, a := range []netip.Addr{rule.Addr(), rule.Addr().Prev(), lastOf(rule), lastOf(rule).Next()} {
				if !a.IsValid() {
					continue
				}
				want := others
				if r, ok := c.Rule(a); ok {
					want = r.Allow
				}
				if b := a.As16(); c.Allows(&b) != want {
					t.Fatalf("%d rules: %v is taken: %v", n, a, !want)
				}
			}
		}
	}
}

func TestClientsDoNotAllocate(t *testing.T) {
	c := clients(t, 1000)
	a := netip.MustParseAddr("10.1.2.3").As16()
	if n := testing.AllocsPerRun(100, func() { c.Allows(&a) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkClients measures what a new flow pays in userspace.
func BenchmarkClients(b *testing.B) {
	for _, n := range []int{0, 1, 100_000} {
		b.Run(fmt.Sprintf("%d prefixes", n), func(b *testing.B) {
			var c *Clients
			if n > 0 {
				c = clients(b, n)
			}
			r := rand.New(rand.NewPCG(1, 2))
			addrs := make([][16]byte, 1<<16)
			for i := range addrs {
				var a [4]byte
				binary.BigEndian.PutUint32(a[:], r.Uint32())
				addrs[i] = netip.AddrFrom4(a).As16()
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				c.Allows(&addrs[i%len(addrs)])
			}
		})
	}
}
