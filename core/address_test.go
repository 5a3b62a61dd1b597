package core

import (
	"net/netip"
	"testing"
)

func TestSpecial(t *testing.T) {
	for addr, want := range map[string]string{
		"10.0.0.1": "", "192.0.2.1": "", "1.0.0.0": "", "100.64.0.1": "", "223.255.255.255": "", "126.1.2.3": "",
		"2001:db8::1": "", "fd00::1": "", "::2": "", "fec0::1": "",
		"0.0.0.0": "an unspecified address", "0.1.2.3": "an unspecified address", "::": "an unspecified address",
		"127.0.0.1": "a loopback address", "127.255.255.254": "a loopback address", "::1": "a loopback address", "::ffff:127.0.0.1": "a loopback address",
		"169.254.7.7": "a link-local address", "fe80::1": "a link-local address", "febf::1": "a link-local address", "fe80::1%eth0": "a link-local address",
		"224.0.0.1": "a multicast address", "239.1.1.1": "a multicast address", "ff02::1": "a multicast address",
		"240.0.0.1": "a reserved address (class E)", "255.255.255.254": "a reserved address (class E)", "255.255.255.255": "the broadcast address",
	} {
		if got := Special(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s is %q, want %q", addr, got, want)
		}
	}
}
