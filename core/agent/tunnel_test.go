package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/caplance/caplance/core/forward"
	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/packet/packettest"
	"golang.org/x/sys/unix"
)

// ipPacket returns a bare header to dst with n bytes behind it.
func ipPacket(dst netip.Addr, n int) []byte {
	if dst.Is4() {
		b := make([]byte, 20+n)
		b[0] = 0x45
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		copy(b[16:], dst.AsSlice())
		return b
	}
	b := make([]byte, 40+n)
	b[0] = 0x60
	binary.BigEndian.PutUint16(b[4:], uint16(n))
	copy(b[24:], dst.AsSlice())
	return b
}

// pair returns a tunnel on addr and a socket that sends to it.
func pair(t testing.TB, addr string, out io.Writer) (*tunnel, *net.UDPConn) {
	t.Helper()
	local := netip.MustParseAddr(addr)
	tun, err := openTunnel(t.Context(), netip.AddrPortFrom(local, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tun.Close() })
	tun.out = out
	conn, err := net.DialUDP("udp", nil, tun.conn.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	tun.allow.Store(&peers{balancers: []netip.Addr{local}, vips: []netip.Addr{vip4, vip6}})
	return tun, conn
}

func TestTunnelDelivers(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		m := &fakeMachine{packets: make(chan []byte, 8)}
		tun, conn := pair(t, addr, m)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- tun.Run(ctx) }()
		for _, p := range [][]byte{ipPacket(vip4, 100), ipPacket(vip6, 1), ipPacket(vip4, 60000)} {
			conn.Write(p)
			if got := <-m.packets; !bytes.Equal(got, p) {
				t.Errorf("over %s: %d bytes came as %d", addr, len(p), len(got))
			}
		}
		tag := "mine"
		tun.tag.Store(&tag)
		conn.Write([]byte("SANITY 00ff mine\n"))
		if got := <-tun.nonces; got != "00ff" {
			t.Errorf("nonce %v", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := tun.Packets.Load(); n != 3 {
			t.Errorf("%d packets counted", n)
		}
	}
}

// A mark that the tunnelled packet got on its way is in what is delivered (RFC
// 6040, §4.2).
func TestTunnelFoldsECN(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		m := &fakeMachine{packets: make(chan []byte, 8)}
		tun, conn := pair(t, addr, m)
		raw, err := conn.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		send := func(outer int, b []byte) {
			t.Helper()
			raw.Control(func(fd uintptr) {
				if addr == "::1" {
					err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_TCLASS, outer)
				} else {
					err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TOS, outer)
				}
			})
			if _, writeErr := conn.Write(b); err != nil || writeErr != nil {
				t.Fatal(err, writeErr)
			}
			if err := tun.step(); err != nil {
				t.Fatal(err)
			}
		}
		for _, vip := range []netip.Addr{vip4, vip6} {
			p := ipPacket(vip, 9)
			p[1] |= map[bool]byte{true: 2, false: 2 << 4}[vip.Is4()] // ECT(0)
			send(0xb8|3, p)
			if got := <-m.packets; got[1] != p[1]|map[bool]byte{true: 3, false: 3 << 4}[vip.Is4()] {
				t.Errorf("over %s: ECN field of %v is %#x", addr, vip, got[1])
			}
			send(2, p)
			if got := <-m.packets; !bytes.Equal(got, p) {
				t.Errorf("over %s: changed without a mark", addr)
			}
			send(3, ipPacket(vip, 9))
		}
		if n := tun.Marked.Load(); n != 2 || len(m.packets) != 0 {
			t.Errorf("over %s: %d dropped that cannot be marked, %d delivered", addr, n, len(m.packets))
		}
	}
}

// The kernel drops what comes with a wrong outer checksum.
func TestTunnelChecksum(t *testing.T) {
	nettest.NetNS(t)
	raw, err := forward.OpenRaw()
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	for addr, at := range map[string]int{"127.0.0.1": 26, "::1": 46} {
		m := &fakeMachine{packets: make(chan []byte, 8)}
		tun, _ := pair(t, addr, m)
		to := tun.conn.LocalAddr().(*net.UDPAddr).AddrPort()
		good := packettest.UDP(netip.AddrPortFrom(to.Addr(), 50000), to, ipPacket(vip4, 9))
		bad := bytes.Clone(good)
		bad[at+8]++
		none := bytes.Clone(good)
		none[at], none[at+1] = 0, 0
		for _, b := range [][]byte{bad, good, bad, none} {
			if err := raw.Send(b); err != nil {
				t.Fatal(err)
			}
		}
		for tun.Packets.Load() < 2 {
			if err := tun.step(); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if got := <-m.packets; !bytes.Equal(got, ipPacket(vip4, 9)) {
				t.Errorf("over %s: delivered %x", addr, got)
			}
		}
	}
}

func TestTunnelDrops(t *testing.T) {
	balancer, stranger := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.9")
	allow := &peers{balancers: []netip.Addr{balancer}, vips: []netip.Addr{vip4, vip6}}
	m := &fakeMachine{packets: make(chan []byte, 8)}
	tun := &tunnel{out: m, nonces: make(chan string, 1)}
	short := ipPacket(vip4, 10)
	short[3]++ // says one byte more than there is
	for i := range 3 {
		tun.deliver(allow, stranger, 0, ipPacket(vip4, 10))
		tun.deliver(allow, stranger, 0, []byte("SANITY 1"))
		tun.deliver(allow, balancer, 0, ipPacket(netip.MustParseAddr("192.0.2.2"), 10))
		tun.deliver(allow, balancer, 0, ipPacket(netip.MustParseAddr("2001:db8::2"), 10))
		tun.deliver(allow, balancer, 0, short)
		tun.deliver(allow, balancer, 0, []byte("hello"))
		tun.deliver(allow, balancer, 0, nil)
		tun.deliver(allow, balancer, 0, bytes.Repeat([]byte{0x60}, 39))
		if n := uint64(i + 1); tun.Stray.Load() != 2*n || tun.NotVIP.Load() != 2*n || tun.Garbage.Load() != 4*n {
			t.Fatalf("stray %d, not VIP %d, garbage %d after %d rounds", tun.Stray.Load(), tun.NotVIP.Load(), tun.Garbage.Load(), n)
		}
	}
	if len(m.packets) != 0 || len(tun.nonces) != 0 {
		t.Error("something was delivered")
	}
	tag := "mine"
	tun.tag.Store(&tag)
	for _, forged := range []string{"SANITY 1", "SANITY 1 ", "SANITY 1 other", "SANITY 1 min", "SANITY 1 mine mine", "SANITY mine"} {
		tun.deliver(allow, balancer, 0, []byte(forged))
	}
	if len(tun.nonces) != 0 {
		t.Errorf("nonce %q without the tag", <-tun.nonces)
	}
	tun.deliver(&peers{}, stranger, 0, []byte("SANITY 1 mine"))
	tun.deliver(&peers{}, stranger, 0, []byte("SANITY 2 mine")) // nobody reads: dropped
	if got := <-tun.nonces; got != "1" {
		t.Errorf("nonce %v", got)
	}
	tun.out = broken{}
	tun.deliver(allow, balancer, 0, ipPacket(vip6, 0))
	if tun.Failed.Load() != 1 || tun.Packets.Load() != 0 {
		t.Errorf("failed %d, packets %d", tun.Failed.Load(), tun.Packets.Load())
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("broken") }

func TestTunnelDoesNotAllocate(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		tun, conn := pair(t, addr, io.Discard)
		p := ipPacket(vip4, 1000)
		if n := testing.AllocsPerRun(200, func() {
			for range 4 {
				if _, err := conn.Write(p); err != nil {
					t.Fatal(err)
				}
			}
			for want := tun.Packets.Load() + 1; tun.Packets.Load() < want; {
				if err := tun.step(); err != nil {
					t.Fatal(err)
				}
			}
		}); n != 0 {
			t.Errorf("over %s: %v allocations a batch", addr, n)
		}
	}
}

func FuzzInnerDst(f *testing.F) {
	f.Add(ipPacket(vip4, 3))
	f.Add(ipPacket(vip6, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		if dst, ok := innerDst(b); ok && !dst.IsValid() {
			t.Errorf("%x: no destination", b)
		}
	})
}

func BenchmarkTunnel(b *testing.B) {
	tun, conn := pair(b, "127.0.0.1", io.Discard)
	p := ipPacket(vip4, 1400)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		for range 32 {
			conn.Write(p)
		}
		for want := tun.Packets.Load() + 32; tun.Packets.Load() < want; {
			if err := tun.step(); err != nil {
				b.Fatal(err)
			}
		}
	}
}
