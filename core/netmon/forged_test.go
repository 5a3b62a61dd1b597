package netmon

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/caplance/caplance/core/forward"
	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/core/packet/packettest"
)

// Whoever can reach this machine can have its kernel believe that the way to
// somebody is narrow: the path's MTU is the link's, or the route's, all the same.
func TestForgedMTU(t *testing.T) {
	nettest.NetNS(t)
	peer := nettest.NewPeer(t, []string{"10.0.0.1/24", "fd00::1/64"}, []string{"10.0.0.2/24", "fd00::2/64"})
	via := &netlink.Route{Gw: net.IPv4(10, 0, 0, 2), MTU: 1400, Dst: &net.IPNet{IP: net.IPv4(203, 0, 113, 0), Mask: net.CIDRMask(24, 32)}}
	via6 := &netlink.Route{Gw: net.ParseIP("fd00::2"), MTU: 1450, Dst: &net.IPNet{IP: net.ParseIP("2001:db8::"), Mask: net.CIDRMask(32, 128)}}
	must(t, netlink.RouteAdd(via), netlink.RouteAdd(via6))
	m := start(t)
	for _, tt := range []struct {
		addr string
		want int
	}{
		// The peer's own addresses first: with one that is not, it may not find the MAC.
		{"10.0.0.2", 1500}, {"fd00::2", 1500}, {"203.0.113.9", 1400}, {"2001:db8::9", 1450},
	} {
		addr, want := tt.addr, tt.want
		to := netip.MustParseAddr(addr)
		conn, err := net.Dial("udp", netip.AddrPortFrom(to, 1337).String())
		must(t, err)
		defer conn.Close()
		from := conn.LocalAddr().(*net.UDPAddr).AddrPort()
		quote := packettest.UDP(from, netip.AddrPortFrom(to, 1337), make([]byte, 600))
		forged := packettest.ICMPError(to, 3, 4, quote[:28])
		if to.Is4() {
			binary.BigEndian.PutUint16(forged[26:], 560)
		} else {
			forged = packettest.ICMPError(to, 2, 0, quote)
			binary.BigEndian.PutUint32(forged[44:], 1280)
		}
		resum(forged, to)
		// The kernel asks its neighbour first.
		for end := time.Now().Add(slow.Time(10 * time.Second)); believed(t, to) == want; <-time.After(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: the kernel does not believe the forgery: this proves nothing", addr)
			}
			peer.Do(func() error {
				raw, err := forward.OpenRaw()
				if err != nil {
					return err
				}
				defer raw.Close()
				return raw.Send(forged)
			})
		}
		m.Watch([]netip.Addr{to})
		until(t, m, "a path to "+addr, func() bool { _, ok := m.Paths()[to]; return ok })
		if got := m.Paths()[to].MTU; got != want {
			t.Errorf("%s: MTU %d, want %d; the kernel has %d", addr, got, want, believed(t, to))
		}
	}
}

// believed returns the MTU that the kernel has of the way to an address.
func believed(t *testing.T, to netip.Addr) int {
	t.Helper()
	routes, err := netlink.RouteGet(to.AsSlice())
	must(t, err)
	if routes[0].MTU == 0 {
		return 1500
	}
	return routes[0].MTU
}

// resum puts an ICMP error's checksum right.
func resum(b []byte, from netip.Addr) {
	if from.Is4() {
		b[22], b[23] = 0, 0
		binary.BigEndian.PutUint16(b[22:], ^packettest.Sum(0, b[20:]))
		return
	}
	b[42], b[43] = 0, 0
	sum := packettest.Sum(uint32(58+len(b)-40), b[8:])
	binary.BigEndian.PutUint16(b[42:], ^sum)
}
