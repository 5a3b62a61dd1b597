package core

import "net/netip"

// special are the networks in which no machine has an address that packets of
// another one's get to (IANA special-purpose registries; RFC 1122, §3.2.1.3).
var special = []struct {
	network netip.Prefix
	is      string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "an unspecified address"},
	{netip.MustParsePrefix("127.0.0.0/8"), "a loopback address"},
	{netip.MustParsePrefix("169.254.0.0/16"), "a link-local address"},
	{netip.MustParsePrefix("224.0.0.0/4"), "a multicast address"},
	{netip.MustParsePrefix("255.255.255.255/32"), "the broadcast address"},
	{netip.MustParsePrefix("240.0.0.0/4"), "a reserved address (class E)"},
	{netip.MustParsePrefix("::/128"), "an unspecified address"},
	{netip.MustParsePrefix("::1/128"), "a loopback address"},
	{netip.MustParsePrefix("fe80::/10"), "a link-local address"},
	{netip.MustParsePrefix("ff00::/8"), "a multicast address"},
}

// Clientless are the links by which no client comes: what a machine sends to its
// own addresses, and what an agent on it has taken out of a tunnel. To balance
// that once more may be to do so for ever.
var Clientless = []string{"lo", "caplance0"}

// Special returns what an address is that cannot be a data IP, whoever has
// it: "a loopback address"; "" for all others.
func Special(a netip.Addr) (is string) {
	for _, s := range special {
		if s.network.Contains(a.Unmap().WithZone("")) {
			return s.is
		}
	}
	return ""
}
