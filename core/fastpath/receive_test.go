package fastpath

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/caplance/caplance/core/forward"
	"github.com/caplance/caplance/core/packet/packettest"
)

var (
	from4 = netip.AddrPortFrom(lb4, 50000)
	from6 = netip.AddrPortFrom(lb6, 50000)
	at4   = netip.AddrPortFrom(data4, port)
	at6   = netip.AddrPortFrom(data6, port)
)

// inBothWays runs a test with a receiver that takes headers of the other family off
// as new kernels can, where this is one, and with one that does as old ones must.
func inBothWays(t *testing.T, test func(t *testing.T, r *Receiver)) {
	if featureDecap.Have() == nil {
		t.Run("at once", func(t *testing.T) { test(t, newReceiver(t, false)) })
	}
	t.Run("translated", func(t *testing.T) { test(t, newReceiver(t, true)) })
}

func newReceiver(t testing.TB, translate bool) *Receiver {
	t.Helper()
	name, _ := testLink(t)
	r, err := openReceiver(name, port, translate, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := r.Accept([]netip.Addr{vip4.Addr(), vip6.Addr()}, []netip.Addr{lb4, lb6}); err != nil {
		t.Fatal(err)
	}
	return r
}

// outer puts a frame's packet into a datagram.
func outer(src, dst netip.AddrPort, in []byte) []byte {
	return frame(packettest.UDP(src, dst, in[14:]))
}

// in4 and in6 are what a balancer sends: without a checksum over IPv6, too.
func in4(in []byte) []byte { return with(outer(from4, at4, in), 26, 0, 0) }
func in6(in []byte) []byte { return with(outer(from6, at6, in), 46, 0, 0) }

// What comes from a balancer for a VIP loses its outer header; all else goes on
// as it came.
func TestReceive(t *testing.T) { inBothWays(t, testReceive) }

func testReceive(t *testing.T, r *Receiver) {
	for _, tt := range []struct {
		name string
		in   []byte
		want []byte // nil: it goes on as it came
	}{
		{"TCP, IPv4 in IPv4", in4(tcp4(ack, 9)), tcp4(ack, 9)},
		{"UDP, IPv4 in IPv4", in4(udp4(9)), udp4(9)},
		{"TCP, IPv6 in IPv4", in4(tcp6(ack, 9)), tcp6(ack, 9)},
		{"UDP, IPv6 in IPv4", in4(udp6(9)), udp6(9)},
		{"TCP, IPv4 in IPv6", in6(tcp4(ack, 9)), tcp4(ack, 9)},
		{"UDP, IPv4 in IPv6", in6(udp4(9)), udp4(9)},
		{"TCP, IPv6 in IPv6", in6(tcp6(ack, 9)), tcp6(ack, 9)},
		{"UDP, IPv6 in IPv6", in6(udp6(9)), udp6(9)},
		{"outer checksum, IPv4", outer(from4, at4, tcp4(ack, 9)), tcp4(ack, 9)},
		{"outer checksum, IPv6", outer(from6, at6, udp4(9)), udp4(9)},
		{"UDP without payload", in4(udp4(0)), udp4(0)},
		{"as long as the tunnel", in4(udp6(mtu4 - 48)), udp6(mtu4 - 48)},
		{"another port of the balancer", outer(netip.AddrPortFrom(lb4, 0xffff), at4, tcp4(ack, 9)), tcp4(ack, 9)},
		{"another of our addresses", outer(from4, netip.MustParseAddrPort("10.0.0.12:1337"), tcp4(ack, 9)), tcp4(ack, 9)},
		{"outer TTL and DSCP", with(with(in4(tcp4(ack, 9)), 1, 0xba), 8, 1), tcp4(ack, 9)},
		{"outer flow label", with(in6(tcp4(ack, 9)), 0, 0x6b, 0xa1, 0x23, 0x45), tcp4(ack, 9)},
		{"outer without DF", with(in4(tcp4(ack, 9)), 6, 0, 0), tcp4(ack, 9)},
		{"inner TTL, DSCP and ECN", in4(with(with(tcp4(ack, 9), 1, 0xbb), 8, 1)), with(with(tcp4(ack, 9), 1, 0xbb), 8, 1)},
		{"inner options", in4(options4(tcp4(ack, 9))), options4(tcp4(ack, 9))},
		{"inner fragment", in6(with(udp4(9), 6, 0x20, 9)), with(udp4(9), 6, 0x20, 9)},
		{"inner IPv6 fragment", in4(extended(udp6(9), 44, 8, 1)), extended(udp6(9), 44, 8, 1)},
		{"inner ICMP", in4(frame(packettest.IP(client4.Addr(), vip4.Addr(), 1, payload(8)))), frame(packettest.IP(client4.Addr(), vip4.Addr(), 1, payload(8)))},
		{"any port of the VIP", in4(tcp(client4, web80, syn, 0)), tcp(client4, web80, syn, 0)},
		{"padding", padded(in4(udp4(0)), 100), padded(udp4(0), 72)},

		{"unknown balancer", outer(client4, at4, tcp4(ack, 9)), nil},
		{"unknown balancer, IPv6", outer(client6, at6, tcp4(ack, 9)), nil},
		{"wrong port", outer(from4, netip.AddrPortFrom(data4, port+1), tcp4(ack, 9)), nil},
		{"wrong port, IPv6", outer(from6, netip.AddrPortFrom(data6, port-1), tcp4(ack, 9)), nil},
		{"port in the other byte order", outer(from4, netip.AddrPortFrom(data4, 0x3905), tcp4(ack, 9)), nil},
		{"from the tunnel's port", outer(netip.AddrPortFrom(lb4, port), netip.AddrPortFrom(data4, 53), tcp4(ack, 9)), nil},
		{"unknown VIP", in4(tcp(client4, nobody4, syn, 0)), nil},
		{"unknown VIP, IPv6 in IPv6", in6(tcp(client6, nobody6, syn, 0)), nil},
		{"from a VIP", in4(tcp(vip4, client4, synAck, 0)), nil},
		{"sanity check", frame(packettest.UDP(from4, at4, []byte("SANITY 0123456789abcdef0123456789abcdef"))), nil},
		{"sanity check, IPv6", frame(packettest.UDP(from6, at6, []byte("SANITY 0123456789abcdef0123456789abcdef"))), nil},
		{"nothing inside", frame(packettest.UDP(from4, at4, nil)), nil},
		{"neither IPv4 nor IPv6 inside", in4(with(tcp4(ack, 9), 0, 0x55)), nil},
		{"zeros inside", frame(packettest.UDP(from6, at6, make([]byte, 60))), nil},
		{"TCP", frame(packettest.TCP(from4, at4, ack, tcp4(ack, 9)[14:])), nil},
		{"TCP over IPv6", frame(packettest.TCP(from6, at6, ack, tcp4(ack, 9)[14:])), nil},
		{"GRE", frame(packettest.IP(lb4, data4, 47, tcp4(ack, 9)[14:])), nil},
		{"no tunnel", tcp4(ack, 9), nil},
		{"no tunnel, IPv6", udp6(9), nil},
		{"outer options", options4(in4(tcp4(ack, 0))), nil},
		{"outer options that look like a tunnel", with(in4(tcp4(ack, 9)), 0, 0x46), nil},
		{"outer first fragment", with(in4(tcp4(ack, 9)), 6, 0x20, 0), nil},
		{"outer last fragment", with(in4(tcp4(ack, 9)), 6, 0, 9), nil},
		{"outer IPv6 fragment", extended(in6(tcp4(ack, 9)), 44, 0, 1), nil},
		{"outer IPv6 destination options", extended(in6(tcp4(ack, 9)), 60, 0, 0), nil},
		{"802.1Q in band", ether(0x8100, append([]byte{0, 5, 8, 0}, in4(tcp4(ack, 9))[14:]...)), nil},
		{"ARP", ether(0x0806, payload(28)), nil},
		{"for another station", addressed(in4(tcp4(ack, 9)), 2), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			packets, size := r.Total()
			if tt.want == nil {
				tt.want = tt.in
			} else {
				packets, size = packets+1, size+uint64(len(tt.want)-14)
			}
			verdict, out := run(t, r.objs.Receive, tt.in, nil)
			if verdict != pass || !bytes.Equal(out, tt.want) {
				t.Errorf("verdict %d, the frame is\n%x, want\n%x", int32(verdict), out, tt.want)
			}
			if gotPackets, gotSize := r.Total(); gotPackets != packets || gotSize != size {
				t.Errorf("counted %d packets, %d bytes, want %d and %d", gotPackets, gotSize, packets, size)
			}
		})
	}
}

// An outer checksum that is there is right, whatever the length, or the packet goes
// on to the kernel's UDP, which drops it.
func TestReceiveChecksum(t *testing.T) { inBothWays(t, testReceiveChecksum) }

func testReceiveChecksum(t *testing.T, r *Receiver) {
	for _, size := range []int{0, 1, 2, 3, 207, 208, 209, 255, 256, 257, 463, 464, 465, 1000, 1400, 1401} {
		for name, in := range map[string]struct {
			outer, want []byte
			header      int // of IP
		}{
			"IPv4 in IPv4": {outer(from4, at4, udp4(size)), udp4(size), 20}, "IPv6 in IPv4": {outer(from4, at4, tcp6(ack, size)), tcp6(ack, size), 20},
			"IPv4 in IPv6": {outer(from6, at6, tcp4(ack, size)), tcp4(ack, size), 40}, "IPv6 in IPv6": {outer(from6, at6, udp6(size)), udp6(size), 40},
		} {
			if _, out := run(t, r.objs.Receive, in.outer, nil); !bytes.Equal(out, in.want) {
				t.Errorf("%s, %d bytes: not taken", name, size)
			}
			if _, out := run(t, r.objs.Receive, padded(bytes.Clone(in.outer), len(in.outer)+3), nil); !bytes.Equal(out[:len(in.want)], in.want) {
				t.Errorf("%s, %d bytes and padding: not taken", name, size)
			}
			for _, at := range []int{14 + in.header + 6, 14 + in.header + 8 + 15, len(in.outer) - 1} {
				bad := bytes.Clone(in.outer)
				bad[at] ^= 4
				if verdict, out := run(t, r.objs.Receive, bad, nil); verdict != pass || !bytes.Equal(out, bad) {
					t.Errorf("%s, %d bytes, byte %d wrong: taken", name, size, at)
				}
			}
		}
	}
	short := with(outer(from4, at4, udp4(9)), 24, 1, 0)
	if _, out := run(t, r.objs.Receive, short, nil); !bytes.Equal(out, short) {
		t.Error("taken though UDP says that it is longer")
	}
}

// The ECN field within is brought in line with the outer one's as forward.Fold
// does; what that drops goes to the agent, which does.
func TestReceiveECN(t *testing.T) { inBothWays(t, testReceiveECN) }

func testReceiveECN(t *testing.T, r *Receiver) {
	class := func(in []byte, class uint8) []byte {
		mark(in[14:], class)
		return in
	}
	for name, in := range map[string]func() []byte{
		"IPv4 in IPv4": func() []byte { return tcp4(ack, 9) }, "IPv6 in IPv4": func() []byte { return udp6(9) },
		"IPv4 in IPv6": func() []byte { return udp4(9) }, "IPv6 in IPv6": func() []byte { return tcp6(ack, 9) },
	} {
		wrap := in4
		if strings.HasSuffix(name, "in IPv6") {
			wrap = in6
		}
		for inner := range uint8(4) {
			for outer := range uint8(4) {
				t.Run(fmt.Sprintf("%s, %02b in %02b", name, inner, outer), func(t *testing.T) {
					sent := class(wrap(class(in(), 0xb8|inner)), 0x48|outer)
					want := class(in(), 0xb8|inner)
					if !forward.Fold(want[14:], outer) {
						want = sent
					}
					if verdict, out := run(t, r.objs.Receive, sent, nil); verdict != pass || !bytes.Equal(out, want) {
						t.Errorf("verdict %d, the frame is\n%x, want\n%x", int32(verdict), out, want)
					}
				})
			}
		}
	}
}

// What ends before its inner IP header does goes on as it came.
func TestReceiveTruncated(t *testing.T) { inBothWays(t, testReceiveTruncated) }

func testReceiveTruncated(t *testing.T, r *Receiver) {
	for _, tt := range []struct {
		name       string
		in         []byte
		least, all int // bytes that a trial takes, and to the end of the inner IP header
	}{
		{"IPv4 in IPv4", in4(tcp4(ack, 9)), 34, 42 + 20},
		{"IPv6 in IPv4", in4(tcp6(ack, 9)), 34, 42 + 40},
		{"IPv4 in IPv6", in6(udp4(9)), 54, 62 + 20},
		{"IPv6 in IPv6", in6(udp6(9)), 54, 62 + 40},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for n := tt.least; n < tt.all; n++ {
				in := tt.in[:n:n]
				if verdict, out := run(t, r.objs.Receive, in, nil); verdict != pass || !bytes.Equal(out, in) {
					t.Errorf("%d bytes: verdict %d, %x", n, int32(verdict), out)
				}
			}
			if n, _ := r.Total(); n != 0 {
				t.Errorf("%d packets counted", n)
			}
		})
	}
}

// Who is accepted no more, is not; the others are all the time.
func TestReceiveAccept(t *testing.T) { inBothWays(t, testReceiveAccept) }

func testReceiveAccept(t *testing.T, r *Receiver) {
	if err := r.AcceptOnly([]netip.Addr{vip6.Addr()}, []netip.Addr{lb4}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		in    []byte
		taken bool
	}{
		{"both stay", in4(tcp6(ack, 9)), true},
		{"the VIP goes", in4(tcp4(ack, 9)), false},
		{"the balancer goes", in6(tcp6(ack, 9)), false},
		{"both go", in6(tcp4(ack, 9)), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, out := run(t, r.objs.Receive, tt.in, nil); bytes.Equal(out, tt.in) == tt.taken {
				t.Errorf("taken: %v", !tt.taken)
			}
		})
	}
	if err := r.AcceptOnly(nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, out := run(t, r.objs.Receive, in4(tcp6(ack, 9)), nil); !bytes.Equal(out, in4(tcp6(ack, 9))) {
		t.Error("taken though nobody is accepted")
	}
}

// A trial's super-packets have no type, and so the kernel takes none out of a
// tunnel: the agent's socket gets them unharmed.
func TestReceiveSuperPacket(t *testing.T) { inBothWays(t, testReceiveSuperPacket) }

func testReceiveSuperPacket(t *testing.T, r *Receiver) {
	for name, in := range map[string][]byte{"TCP": in4(tcp4(ack, 3000)), "UDP": in6(udp6(3000))} {
		if verdict, out := run(t, r.objs.Receive, in, super{1000, 3}.context()); verdict != pass || !bytes.Equal(out, in) {
			t.Errorf("%s: verdict %d, changed: %v", name, int32(verdict), !bytes.Equal(out, in))
		}
	}
	if n, _ := r.Total(); n != 0 {
		t.Errorf("%d packets counted", n)
	}
}
