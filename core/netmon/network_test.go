package netmon

import (
	"net/netip"
	"reflect"
	"testing"
)

var sample = &Network{
	Links: []Link{
		{Index: 1, Name: "lo", MTU: 65536, Loopback: true},
		{Index: 2, Name: "eth0", MTU: 1500, Ethernet: true},
		{Index: 3, Name: "eth1", MTU: 9000, Ethernet: true},
		{Index: 5, Name: "wg0", MTU: 1420, Bare: true},
		{Index: 6, Name: "eth2", Ethernet: true},
		{Index: 7, Name: AgentDevice, Bare: true},
	},
	Addrs: []Addr{
		{1, netip.MustParsePrefix("127.0.0.1/8")},
		{2, netip.MustParsePrefix("10.0.0.1/16")},
		{2, netip.MustParsePrefix("10.0.1.9/32")},
		{3, netip.MustParsePrefix("10.0.1.1/24")},
		{3, netip.MustParsePrefix("2001:db8::1/64")},
		{5, netip.MustParsePrefix("192.0.2.1/32")},
		{6, netip.MustParsePrefix("fe80::1/64")},
		{7, netip.MustParsePrefix("192.0.0.8/32")},
	},
}

func TestLinkOf(t *testing.T) {
	for vip, want := range map[string]string{
		"10.0.9.9":        "eth0",
		"10.0.1.9":        "eth1", // the most specific network
		"::ffff:10.0.1.9": "eth1",
		"2001:db8::5":     "eth1",
		"192.0.2.1":       "lo", // an address is not its network
		"192.0.2.2":       "lo",
	} {
		l, ok := sample.LinkOf(netip.MustParseAddr(vip))
		if l.Name != want || ok != (want != "lo") {
			t.Errorf("VIP %s is on %s, %t, want %s", vip, l.Name, ok, want)
		}
	}
}

func TestConnected(t *testing.T) {
	got := sample.Connected(netip.MustParseAddr("10.0.1.1"))
	if want := []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24")}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if n := len(sample.Connected(netip.IPv6Unspecified())); n != len(sample.Addrs) {
		t.Errorf("%d networks of all addresses, want %d", n, len(sample.Addrs))
	}
}

func TestFacing(t *testing.T) {
	var names []string
	for _, l := range sample.Facing() {
		names = append(names, l.Name)
	}
	if want := []string{"eth0", "eth1", "wg0"}; !reflect.DeepEqual(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
	if _, ok := sample.Link(4); ok {
		t.Error("link 4 is not there")
	}
}
