package ruleset

import (
	"net"
	"net/netip"
	"testing"

	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/reconcile"
	"github.com/caplance/caplance/core/reconcile/contract"
	"golang.org/x/sys/unix"
)

// clampedMSS connects over lo, from a client of the same host to a listener on
// addr, and returns the segment size that the client may send: what the SYN-ACK
// from addr announced, less the timestamps that both ends use.
func clampedMSS(t *testing.T, addr string) int {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(addr, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	mss := 0
	if err := raw.Control(func(fd uintptr) {
		mss, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG)
	}); err != nil {
		t.Fatal(err)
	}
	const timestamps = 12
	return mss + timestamps
}

func TestClampLowersWhatTheVIPAnnounces(t *testing.T) {
	nettest.NetNS(t)
	v4, v6 := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")
	before4, before6 := clampedMSS(t, "127.0.0.1"), clampedMSS(t, "::1")
	for _, mtu := range []int{1400, 1472} { // the second one replaces the first
		if err := (&Clamp{VIPs: []netip.Addr{v4, v6}, MTU: mtu}).Apply(); err != nil {
			t.Fatal(err)
		}
		if got := clampedMSS(t, "127.0.0.1"); got != mtu-40 {
			t.Errorf("MTU %d: segments of %d bytes over IPv4, want %d", mtu, got, mtu-40)
		}
		if got := clampedMSS(t, "::1"); got != mtu-60 {
			t.Errorf("MTU %d: segments of %d bytes over IPv6, want %d", mtu, got, mtu-60)
		}
	}
	if got := clampedMSS(t, "127.0.0.2"); got != before4 {
		t.Errorf("another address announces %d, before %d", got, before4)
	}
	for range 2 {
		if err := RemoveClamp(); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := Tables(); err != nil || len(list) != 0 {
		t.Errorf("left: %v, %v", list, err)
	}
	if got := clampedMSS(t, "::1"); got != before6 {
		t.Errorf("without the table %d, before %d", got, before6)
	}
}

func TestClampNeverRaises(t *testing.T) {
	nettest.NetNS(t)
	before := clampedMSS(t, "127.0.0.1")
	if before > 65535-40 {
		t.Fatalf("lo announces %d", before)
	}
	if err := (&Clamp{VIPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, MTU: 65575}).Apply(); err != nil {
		t.Fatal(err)
	}
	if got := clampedMSS(t, "127.0.0.1"); got != before {
		t.Errorf("announced %d, before %d", got, before)
	}
}

func TestClampContract(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	contract.Test(t, contract.Case[Clamp]{
		Setup:     foreign,
		New:       func(*testing.T) reconcile.Target[Clamp] { return NewClamp().Share() },
		Empty:     &Clamp{},
		States:    []*Clamp{{VIPs: []netip.Addr{v4, v6}, MTU: 1400}, {VIPs: []netip.Addr{v4.Next()}, MTU: 1472}},
		Footprint: footprint,
		Drifts:    breaks(ClampTable, "output"),
	})
}
