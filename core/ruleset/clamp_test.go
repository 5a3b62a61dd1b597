package ruleset

import (
	"net"
	"net/netip"
	"testing"

	"github.com/caplance/caplance/e2e/require"
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
	require.NetNS(t)
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
	if n, _, _ := tables(t); n != 0 {
		t.Errorf("%d tables are left", n)
	}
	if got := clampedMSS(t, "::1"); got != before6 {
		t.Errorf("without the table %d, before %d", got, before6)
	}
}

func TestClampNeverRaises(t *testing.T) {
	require.NetNS(t)
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
