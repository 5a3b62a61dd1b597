package forward

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/packet/packettest"
	"github.com/caplance/caplance/e2e/require"
)

var (
	client4 = netip.MustParseAddrPort("198.51.100.7:40000")
	vip4    = netip.MustParseAddrPort("192.0.2.1:443")
	client6 = netip.MustParseAddrPort("[2001:db8::7]:40000")
	vip6    = netip.MustParseAddrPort("[2001:db8:1::1]:443")
)

// Any inner family crosses any outer one unchanged, the source port follows
// the flow, and batches larger than a sendmmsg arrive whole and in order.
func TestTunnelCarriesPackets(t *testing.T) {
	require.NetNS(t)
	tun, err := Open(1337)
	if err != nil {
		t.Fatal(err)
	}
	defer tun.Close()
	for _, backend := range []string{"127.0.0.1", "::1"} {
		addr := netip.MustParseAddr(backend)
		agent, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 1337)))
		if err != nil {
			t.Fatal(err)
		}
		defer agent.Close()
		agent.SetReadDeadline(time.Now().Add(10 * time.Second))
		var sent [][]byte
		for i := range 150 {
			p := packettest.TCP(client4, vip4, packet.ACK, bytes.Repeat([]byte{byte(i)}, i*9))
			if i%2 == 1 {
				p = packettest.UDP(client6, vip6, bytes.Repeat([]byte{byte(i)}, i))
			}
			sent = append(sent, p)
			tun.Tunnel(addr, uint64(i%2)<<60|5<<48, p)
		}
		tun.Flush()
		ports := map[int]uint16{}
		buf := make([]byte, 4096)
		for i, want := range sent {
			n, from, err := agent.ReadFromUDPAddrPort(buf)
			if err != nil {
				t.Fatalf("%s: packet %d: %v", backend, i, err)
			}
			if !bytes.Equal(buf[:n], want) {
				t.Fatalf("%s: packet %d changed on its way", backend, i)
			}
			if p, ok := ports[i%2]; ok && p != from.Port() {
				t.Fatalf("%s: source port of one flow went from %d to %d", backend, p, from.Port())
			}
			ports[i%2] = from.Port()
		}
		if ports[0] == ports[1] {
			t.Errorf("%s: two flows share source port %d", backend, ports[0])
		}
	}
	if n := tun.Packets.Load(); n != 300 {
		t.Errorf("%d packets counted", n)
	}
}

// What the kernel refuses is counted by reason, and the rest of the batch
// still goes out.
func TestTunnelCountsRefusals(t *testing.T) {
	require.NetNS(t)
	tun, err := Open(1337)
	if err != nil {
		t.Fatal(err)
	}
	defer tun.Close()
	lo, nowhere := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("203.0.113.9")
	tun.Tunnel(nowhere, 0, make([]byte, 100))
	tun.Tunnel(lo, 0, make([]byte, 100))
	tun.Tunnel(lo, 0, make([]byte, 65530))
	tun.Tunnel(lo, 0, make([]byte, 100))
	tun.Flush()
	if tun.Packets.Load() != 2 || tun.Bytes.Load() != 200 || tun.TooLong.Load() != 1 || tun.Unreachable.Load() != 1 {
		t.Errorf("sent %d (%d bytes), too long %d, unreachable %d, failed %d", tun.Packets.Load(), tun.Bytes.Load(), tun.TooLong.Load(), tun.Unreachable.Load(), tun.Failed.Load())
	}
}

func TestTunnelDoesNotAllocate(t *testing.T) {
	require.NetNS(t)
	tun, err := Open(1337)
	if err != nil {
		t.Fatal(err)
	}
	defer tun.Close()
	p := packettest.TCP(client4, vip4, packet.ACK, make([]byte, 1000))
	lo4, lo6 := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")
	if n := testing.AllocsPerRun(200, func() {
		tun.Tunnel(lo4, 1, p)
		tun.Tunnel(lo6, 2, p)
		tun.Flush()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestPathTo(t *testing.T) {
	require.NetNS(t)
	p, err := PathTo(netip.MustParseAddr("127.0.0.5"))
	if err != nil || p.MTU != 65536-Overhead4 || !p.Source.IsLoopback() {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := PathTo(netip.MustParseAddr("203.0.113.9")); err == nil {
		t.Error("a route to nowhere")
	}
}

func BenchmarkTunnel(b *testing.B) {
	require.NetNS(b)
	tun, err := Open(1337)
	if err != nil {
		b.Fatal(err)
	}
	defer tun.Close()
	p := packettest.TCP(client4, vip4, packet.ACK, make([]byte, 100))
	lo := netip.MustParseAddr("127.0.0.1")
	i := 0
	for b.Loop() {
		tun.Tunnel(lo, uint64(i)<<48, p)
		if i++; i%64 == 0 {
			tun.Flush()
		}
	}
}
