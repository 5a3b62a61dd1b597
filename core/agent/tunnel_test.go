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
)

// ipPacket is a bare header to dst with n bytes behind it.
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

// pair is a tunnel on addr and a socket that sends to it.
func pair(t testing.TB, addr string, out io.Writer) (*tunnel, *net.UDPConn) {
	t.Helper()
	local := netip.MustParseAddr(addr)
	tun, err := openTunnel(t.Context(), netip.AddrPortFrom(local, 0), out)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tun.Close() })
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
		conn.Write([]byte("SANITY 00ff\n"))
		if got := <-tun.nonces; got != (sanity{"00ff", true}) {
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

func TestTunnelDrops(t *testing.T) {
	balancer, stranger := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.9")
	allow := &peers{balancers: []netip.Addr{balancer}, vips: []netip.Addr{vip4, vip6}}
	m := &fakeMachine{packets: make(chan []byte, 8)}
	tun := &tunnel{out: m, nonces: make(chan sanity, 1)}
	short := ipPacket(vip4, 10)
	short[3]++ // says one byte more than there is
	for i := range 3 {
		tun.deliver(allow, stranger, ipPacket(vip4, 10))
		tun.deliver(allow, stranger, []byte("SANITY 1"))
		tun.deliver(allow, balancer, ipPacket(netip.MustParseAddr("192.0.2.2"), 10))
		tun.deliver(allow, balancer, ipPacket(netip.MustParseAddr("2001:db8::2"), 10))
		tun.deliver(allow, balancer, short)
		tun.deliver(allow, balancer, []byte("hello"))
		tun.deliver(allow, balancer, nil)
		tun.deliver(allow, balancer, bytes.Repeat([]byte{0x60}, 39))
		if n := uint64(i + 1); tun.Stray.Load() != 2*n || tun.NotVIP.Load() != 2*n || tun.Garbage.Load() != 4*n {
			t.Fatalf("stray %d, not VIP %d, garbage %d after %d rounds", tun.Stray.Load(), tun.NotVIP.Load(), tun.Garbage.Load(), n)
		}
	}
	if len(m.packets) != 0 || len(tun.nonces) != 0 {
		t.Error("something was delivered")
	}
	tun.deliver(&peers{anyNonce: true}, stranger, []byte("SANITY 1"))
	tun.deliver(&peers{anyNonce: true}, stranger, []byte("SANITY 2")) // nobody reads: dropped
	if got := <-tun.nonces; got != (sanity{"1", false}) {
		t.Errorf("nonce %v", got)
	}
	tun.out = broken{}
	tun.deliver(allow, balancer, ipPacket(vip6, 0))
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
