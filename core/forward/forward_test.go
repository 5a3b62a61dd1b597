package forward

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/packet/packettest"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
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
	nettest.NetNS(t)
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
		agent.SetReadDeadline(time.Now().Add(slow.Time(10 * time.Second)))
		var sent [][]byte
		for i := range 150 {
			p := packettest.TCP(client4, vip4, packet.ACK, bytes.Repeat([]byte{byte(i)}, i*9))
			if i%2 == 1 {
				p = packettest.UDP(client6, vip6, bytes.Repeat([]byte{byte(i)}, i))
			}
			sent = append(sent, p)
			tun.Tunnel(addr, uint16(0xc005|i%2<<12), true, p)
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
	nettest.NetNS(t)
	tun, err := Open(1337)
	if err != nil {
		t.Fatal(err)
	}
	defer tun.Close()
	lo, nowhere := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("203.0.113.9")
	tun.Tunnel(nowhere, 0, true, make([]byte, 100))
	tun.Tunnel(lo, 0, true, make([]byte, 100))
	tun.Tunnel(lo, 0, true, make([]byte, 65530))
	tun.Tunnel(lo, 0, true, make([]byte, 100))
	tun.Flush()
	if tun.Packets.Load() != 2 || tun.Bytes.Load() != 200 || tun.TooLong.Load() != 1 || tun.Unreachable.Load() != 1 {
		t.Errorf("sent %d (%d bytes), too long %d, unreachable %d, failed %d", tun.Packets.Load(), tun.Bytes.Load(), tun.TooLong.Load(), tun.Unreachable.Load(), tun.Failed.Load())
	}
}

// The outer header has the DSCP and ECN of the packet within, each packet of a
// batch its own, and a nonce none.
func TestTunnelCopiesDSCPAndECN(t *testing.T) {
	nettest.NetNS(t)
	tun, err := Open(1337)
	if err != nil {
		t.Fatal(err)
	}
	defer tun.Close()
	classes := []byte{0, 1, 2, 3, 0xb8, 0xbb, 0, 0xff}
	for _, backend := range []string{"127.0.0.1", "::1"} {
		addr := netip.MustParseAddr(backend)
		agent, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 1337)))
		if err != nil {
			t.Fatal(err)
		}
		defer agent.Close()
		agent.SetReadDeadline(time.Now().Add(slow.Time(10 * time.Second)))
		receiveClass(t, agent, addr)
		for _, class := range classes {
			p4, p6 := packettest.UDP(client4, vip4, nil), packettest.UDP(client6, vip6, nil)
			p4[1], p6[0], p6[1] = class, p6[0]|class>>4, class<<4
			tun.Tunnel(addr, 1, true, p4)
			tun.Tunnel(addr, 2, true, p6)
			tun.Tunnel(addr, 3, true, []byte("SANITY 0123456789abcdef"))
			tun.Tunnel(addr, 4, false, p4)
			tun.Tunnel(addr, 5, false, p6)
		}
		tun.Flush()
		for _, want := range classes {
			for i, want := range []byte{want, want, 0, want &^ 3, want &^ 3} {
				b, oob := make([]byte, 100), make([]byte, 100)
				_, n, _, _, err := agent.ReadMsgUDP(b, oob)
				if err != nil {
					t.Fatal(err)
				}
				list, err := unix.ParseSocketControlMessage(oob[:n])
				if err != nil || len(list) != 1 || list[0].Data[0] != want {
					t.Errorf("%s: packet %d arrived with %x, %v, want %#x", backend, i, oob[:n], err, want)
				}
			}
		}
	}
}

// receiveClass has a socket tell DSCP and ECN.
func receiveClass(t *testing.T, c *net.UDPConn, at netip.Addr) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		if at.Is4() {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A forged "fragmentation needed" or "packet too big" about a tunnel's datagram
// makes no difference: packets as long as the link go on.
func TestForgedTooBig(t *testing.T) {
	nettest.NetNS(t)
	far := nettest.NewPeer(t, []string{"10.0.0.1/24", "fd00::1/64"}, []string{"10.0.0.2/24", "fd00::2/64"})
	s, err := Open(1337)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for here, there := range map[string]string{"10.0.0.1": "10.0.0.2", "fd00::1": "fd00::2"} {
		from, to := netip.MustParseAddr(here), netip.MustParseAddr(there)
		var agent *net.UDPConn
		var raw *Raw
		far.Do(func() (err error) {
			if agent, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 1337))); err != nil {
				return err
			}
			raw, err = OpenRaw()
			return err
		})
		defer agent.Close()
		defer raw.Close()
		agent.SetReadDeadline(time.Now().Add(slow.Time(10 * time.Second)))
		send := func() {
			t.Helper()
			p := packettest.UDP(client4, vip4, make([]byte, 1500-Overhead(to)-28))
			s.Tunnel(to, 50000, true, p)
			s.Flush()
			b := make([]byte, 2000)
			if n, err := agent.Read(b); err != nil || n != len(p) {
				t.Errorf("to %s: %d bytes arrived, want %d; %v, %d too long", there, n, len(p), err, s.TooLong.Load())
			}
		}
		send()
		if err := raw.Send(tooBig(netip.AddrPortFrom(from, 50000), netip.AddrPortFrom(to, 1337))); err != nil {
			t.Fatal(err)
		}
		send()
		routes, err := netlink.RouteGet(to.AsSlice())
		if err != nil || to.Is4() && routes[0].MTU != 600 { // of IPv6's errors a socket like this is not told
			t.Errorf("the kernel does not believe the forgery, this proves nothing: %v, %v", routes, err)
		}
	}
}

// tooBig returns an ICMP error from the other end about a datagram.
func tooBig(from, to netip.AddrPort) []byte {
	quote := packettest.UDP(from, to, make([]byte, 500))
	if to.Addr().Is4() {
		b := packettest.ICMPError(to.Addr(), 3, 4, quote)
		binary.BigEndian.PutUint32(b[24:], 600)
		b[22], b[23] = 0, 0
		binary.BigEndian.PutUint16(b[22:], ^packettest.Sum(0, b[20:]))
		return b
	}
	b := packettest.ICMPError(to.Addr(), 2, 0, quote)
	binary.BigEndian.PutUint32(b[44:], 1280)
	b[42], b[43] = 0, 0
	binary.BigEndian.PutUint16(b[42:], ^packettest.Sum(uint32(58+len(b)-40), b[8:]))
	return b
}

func TestTunnelDoesNotAllocate(t *testing.T) {
	nettest.NetNS(t)
	tun, err := Open(1337)
	if err != nil {
		t.Fatal(err)
	}
	defer tun.Close()
	p := packettest.TCP(client4, vip4, packet.ACK, make([]byte, 1000))
	p[1] = 0xbb
	lo4, lo6 := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")
	if n := testing.AllocsPerRun(200, func() {
		tun.Tunnel(lo4, 1, true, p)
		tun.Tunnel(lo6, 2, true, p)
		tun.Flush()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkTunnel(b *testing.B) {
	nettest.NetNS(b)
	tun, err := Open(1337)
	if err != nil {
		b.Fatal(err)
	}
	defer tun.Close()
	p := packettest.TCP(client4, vip4, packet.ACK, make([]byte, 100))
	lo := netip.MustParseAddr("127.0.0.1")
	i := 0
	for b.Loop() {
		tun.Tunnel(lo, uint16(i), true, p)
		if i++; i%64 == 0 {
			tun.Flush()
		}
	}
}
