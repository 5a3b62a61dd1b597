package hostnet

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core/nettest"
)

// Gateways are those of all tables and both families.
func TestGateways(t *testing.T) {
	nettest.NetNS(t)
	nettest.NewPeer(t, []string{"10.0.0.1/24", "fd00::1/64"}, []string{"10.0.0.2/24", "fd00::2/64"})
	link, err := netlink.RouteGet(netip.MustParseAddr("10.0.0.2").AsSlice())
	if err != nil {
		t.Fatal(err)
	}
	for gw, table := range map[string]int{"10.0.0.2": unix.RT_TABLE_MAIN, "10.0.0.3": 77, "fd00::2": unix.RT_TABLE_MAIN} {
		dst := "198.51.100.0/24"
		if a := netip.MustParseAddr(gw); a.Is6() {
			dst = "2001:db8:9::/48"
		}
		n, err := netlink.ParseIPNet(dst)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.RouteAdd(&netlink.Route{Dst: n, Gw: netip.MustParseAddr(gw).AsSlice(), Table: table, LinkIndex: link[0].LinkIndex}); err != nil {
			t.Fatalf("%s: %v", gw, err)
		}
	}
	got, err := Gateways()
	if err != nil {
		t.Fatal(err)
	}
	for _, gw := range []string{"10.0.0.2", "10.0.0.3", "fd00::2"} {
		if !got[netip.MustParseAddr(gw)] {
			t.Errorf("%s is missing in %v", gw, got)
		}
	}
	if got[netip.MustParseAddr("10.0.0.1")] {
		t.Error("an address of our own is a gateway")
	}
}
