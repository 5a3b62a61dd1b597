package fastpath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/packet/packettest"
	"github.com/caplance/caplance/e2e/require"
	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
)

var (
	client4 = netip.MustParseAddrPort("198.51.100.7:40000")
	vip4    = netip.MustParseAddrPort("192.0.2.1:443")
	client6 = netip.MustParseAddrPort("[2001:db8::7]:40000")
	vip6    = netip.MustParseAddrPort("[2001:db8:1::1]:443")
	data4   = netip.MustParseAddr("10.0.0.11")
	data6   = netip.MustParseAddr("fd00::11")
	lb4     = netip.MustParseAddr("10.0.0.1")
	lb6     = netip.MustParseAddr("fd00::1")
)

// What a program says (linux/pkt_cls.h).
const (
	pass     = ^uint32(0)
	shot     = 2
	redirect = 7
)

// frame puts an Ethernet header before an IP packet.
func frame(b []byte) []byte {
	h := append(bytes.Repeat([]byte{2}, 12), 0x08, 0x00)
	if b[0]>>4 == 6 {
		h[12], h[13] = 0x86, 0xdd
	}
	return append(h, b...)
}

// run shows a frame to a program and returns its verdict and what became of
// the IP packet.
func run(t *testing.T, p *ebpf.Program, frame []byte) (verdict uint32, out []byte) {
	t.Helper()
	opts := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256)}
	verdict, err := p.Run(&opts)
	if err != nil {
		t.Fatal(err)
	}
	return verdict, opts.DataOut[14:]
}

// testLink makes a link to attach to in a namespace of the test's own.
func testLink(t *testing.T) (name string, index int) {
	t.Helper()
	require.NetNS(t)
	l := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}}
	if err := netlink.LinkAdd(l); err != nil {
		t.Fatal(err)
	}
	return "eth0", l.Attrs().Index
}

func key(src, dst netip.AddrPort, proto uint8) *core.FlowKey {
	return &core.FlowKey{Src: src.Addr().As16(), Dst: dst.Addr().As16(), SrcPort: src.Port(), DstPort: dst.Port(), Proto: proto}
}

func testConfig(t *testing.T, link string) Config {
	return Config{Links: []string{link}, Flows: 1024, StateDir: t.TempDir(), Services: []*core.Service{
		{Index: 0, Name: "other", VIP: netip.MustParseAddr("192.0.2.99"), Protos: []uint8{6}, Ports: []core.PortRange{core.AllPorts}},
		{Index: 1, Name: "web", VIP: vip4.Addr(), Protos: []uint8{6, 17}, Ports: []core.PortRange{{First: 443, Last: 444}}, Seed: 4711},
		{Index: 2, Name: "web6", VIP: vip6.Addr(), Protos: []uint8{6, 17}, Ports: []core.PortRange{core.AllPorts}, Seed: 4712},
	}}
}

func openBalancer(t *testing.T) *Balancer {
	t.Helper()
	name, index := testLink(t)
	b, err := OpenBalancer(testConfig(t, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Attach(), b.Beat()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, target := range []Target{
		{Service: 1, Handle: 1<<16 | 1, Addr: data4, Source: lb4, Link: index, MTU: 1472, Port: 1337},
		{Service: 1, Handle: 1<<16 | 2, Addr: data6, Source: lb6, Link: index, MTU: 1452, Port: 1337},
		{Service: 1, Handle: 1<<16 | 3, Addr: data4, Source: lb4, Link: index, MTU: 1472, Port: 1337, Paused: true},
	} {
		if err := b.SetTarget(target); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// edit changes a copy of a packet.
func edit(b []byte, f func(b []byte)) []byte {
	b = bytes.Clone(b)
	f(b)
	return b
}

// establish puts a flow into the kernel as its second packet would.
func establish(t *testing.T, b *Balancer, k *core.FlowKey, service uint16, h core.Handle) {
	t.Helper()
	place(t, b, k, service, h)
	key := flowKey(k, b.vips[k.Dst])
	var v balanceFlow
	if err := errors.Join(b.objs.Pending.LookupAndDelete(&key, &v), b.objs.Flows.Put(&key, &v)); err != nil {
		t.Fatal(err)
	}
}

// place puts a flow into the kernel as a worker does.
func place(t *testing.T, b *Balancer, k *core.FlowKey, service uint16, h core.Handle) {
	t.Helper()
	p := b.Placer()
	if !p.Add(k, service, h, 1, 40) {
		t.Fatal("flow refused")
	}
	p.Flush()
	if got, ok := p.Find(k); !ok || got != h {
		t.Fatalf("flow not found: %v %v", got, ok)
	}
}

func TestBalance(t *testing.T) {
	b := openBalancer(t)
	add := func(k *core.FlowKey, target core.Handle) {
		establish(t, b, k, 1, target)
	}
	const to4, to6, paused, gone = 1<<16 | 1, 1<<16 | 2, 1<<16 | 3, 7<<16 | 1
	other4 := netip.MustParseAddrPort("198.51.100.8:40000")
	other6 := netip.MustParseAddrPort("[2001:db8::8]:40000")
	third4 := netip.MustParseAddrPort("198.51.100.9:40000")
	fourth4 := netip.MustParseAddrPort("198.51.100.10:40000")
	add(key(client4, vip4, 6), to4)
	add(key(client4, vip4, 17), to4)
	add(key(client6, vip6, 6), to4)
	add(key(other4, vip4, 6), to6)
	add(key(other6, vip6, 17), to6)
	add(key(third4, vip4, 6), paused)
	add(key(fourth4, vip4, 6), gone)
	ack := packettest.TCP(client4, vip4, packet.ACK, []byte("data"))
	tests := []struct {
		name    string
		in      []byte
		verdict uint32
		to      netip.Addr // of the outer header
	}{
		{"TCP over IPv4", ack, redirect, data4},
		{"UDP over IPv4", packettest.UDP(client4, vip4, []byte("12345")), redirect, data4},
		{"UDP without payload", packettest.UDP(client4, vip4, nil), redirect, data4},
		{"IPv6 over IPv4", packettest.TCP(client6, vip6, packet.ACK, nil), redirect, data4},
		{"IPv4 over IPv6", packettest.TCP(other4, vip4, packet.ACK, []byte("x")), redirect, data6},
		{"IPv6 over IPv6", packettest.UDP(other6, vip6, []byte("x")), redirect, data6},
		{"as long as the tunnel", packettest.TCP(client4, vip4, packet.ACK, make([]byte, 1472-40)), redirect, data4},
		{"longer than the tunnel", packettest.TCP(client4, vip4, packet.ACK, make([]byte, 1473-40)), pass, netip.Addr{}},
		{"SYN of an open flow", packettest.TCP(client4, vip4, packet.SYN, nil), redirect, data4},
		{"FIN", packettest.TCP(client4, vip4, packet.FIN|packet.ACK, nil), redirect, data4},
		{"RST", packettest.TCP(client4, vip4, packet.RST, nil), redirect, data4},
		{"unknown flow", packettest.TCP(other4, netip.AddrPortFrom(vip4.Addr(), 80), packet.ACK, nil), pass, netip.Addr{}},
		{"the other direction", packettest.TCP(vip4, client4, packet.ACK, nil), pass, netip.Addr{}},
		{"other protocol", packettest.IP(client4.Addr(), vip4.Addr(), 47, make([]byte, 40)), pass, netip.Addr{}},
		{"backend paused", packettest.TCP(third4, vip4, packet.ACK, nil), shot, netip.Addr{}},
		{"backend left", packettest.TCP(fourth4, vip4, packet.ACK, nil), pass, netip.Addr{}},
		{"first fragment", edit(ack, func(b []byte) { b[6] = 0x20 }), pass, netip.Addr{}},
		{"later fragment", edit(ack, func(b []byte) { b[6], b[7] = 0, 9 }), pass, netip.Addr{}},
		{"options", edit(ack, func(b []byte) { b[0] = 0x46 }), pass, netip.Addr{}},
		{"IPv6 extension", edit(packettest.TCP(client6, vip6, packet.ACK, nil), func(b []byte) { b[6] = 0 }), pass, netip.Addr{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			verdict, out := run(t, b.objs.TC, frame(tt.in))
			if verdict != tt.verdict {
				t.Fatalf("verdict %d, want %d", int32(verdict), int32(tt.verdict))
			}
			if verdict != redirect {
				if !bytes.Equal(out, tt.in) {
					t.Error("the packet was changed")
				}
				return
			}
			checkOuter(t, out, tt.to, tt.in)
		})
	}
}

// checkOuter checks the tunnel's header and that what it carries is unchanged.
func checkOuter(t *testing.T, out []byte, to netip.Addr, inner []byte) {
	t.Helper()
	var p packet.Packet
	if err := p.Parse(out); err != nil {
		t.Fatal(err)
	}
	if got := p.Key.DstAddr(); got != netip.AddrPortFrom(to, 1337) || p.Key.Proto != core.ProtoUDP || p.Length != len(out) || !p.DF {
		t.Errorf("outer header: %+v", p)
	}
	if to.Is4() && !packettest.Checksum4(out) {
		t.Error("outer header's checksum is wrong")
	}
	udp := out[p.Header:]
	if n := int(binary.BigEndian.Uint16(udp[4:])); n != len(udp) || p.Key.SrcPort < 0xc000 {
		t.Errorf("UDP length %d of %d, source port %d", n, len(udp), p.Key.SrcPort)
	}
	if !bytes.Equal(udp[8:], inner) {
		t.Error("the inner packet was changed")
	}
}

// A packet cut anywhere in its transport header is passed on. (Shorter ones
// the kernel does not show to a program in a trial.)
func TestBalanceTruncated(t *testing.T) {
	b := openBalancer(t)
	for _, whole := range [][]byte{frame(packettest.TCP(client4, vip4, packet.ACK, nil)), frame(packettest.UDP(client6, vip6, nil))} {
		header := 14 + 20
		if whole[12] == 0x86 {
			header = 14 + 40
		}
		for n := header; n < len(whole); n++ {
			if verdict, _ := run(t, b.objs.TC, whole[:n:n]); verdict != pass {
				t.Errorf("%d bytes: verdict %d", n, verdict)
			}
		}
	}
}

func TestReceive(t *testing.T) {
	name, _ := testLink(t)
	r, err := OpenReceiver(name, 1337)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Accept([]netip.Addr{vip4.Addr(), vip6.Addr()}, []netip.Addr{lb4, lb6}); err != nil {
		t.Fatal(err)
	}
	from4, from6 := netip.AddrPortFrom(lb4, 50000), netip.AddrPortFrom(lb6, 50000)
	to4, to6 := netip.AddrPortFrom(data4, 1337), netip.AddrPortFrom(data6, 1337)
	in4, in6 := packettest.TCP(client4, vip4, packet.SYN, nil), packettest.UDP(client6, vip6, []byte("data"))
	tests := []struct {
		name string
		in   []byte
		want []byte // nil: unchanged
	}{
		{"IPv4 in IPv4", packettest.UDP(from4, to4, in4), in4},
		{"IPv6 in IPv4", packettest.UDP(from4, to4, in6), in6},
		{"IPv4 in IPv6", packettest.UDP(from6, to6, in4), in4},
		{"IPv6 in IPv6", packettest.UDP(from6, to6, in6), in6},
		{"sanity check", packettest.UDP(from4, to4, []byte("SANITY 0123456789abcdef0123456789abcdef")), nil},
		{"not from a balancer", packettest.UDP(client4, to4, in4), nil},
		{"other port", packettest.UDP(from4, netip.AddrPortFrom(data4, 1338), in4), nil},
		{"not for a VIP", packettest.UDP(from4, to4, packettest.TCP(client4, netip.MustParseAddrPort("192.0.2.2:443"), packet.SYN, nil)), nil},
		{"short", packettest.UDP(from4, to4, in4[:10]), nil},
		{"TCP", packettest.TCP(from4, to4, packet.ACK, in4), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			verdict, out := run(t, r.objs.Receive, frame(tt.in))
			want := tt.want
			if want == nil {
				want = tt.in
			}
			if verdict != pass || !bytes.Equal(out, want) {
				t.Errorf("verdict %d, %d bytes, want %d", int32(verdict), len(out), len(want))
			}
		})
	}
	if packets, _ := r.Total(); packets != 4 {
		t.Errorf("%d packets counted", packets)
	}
	// Who is accepted no more, is not.
	if err := r.Accept([]netip.Addr{vip6.Addr()}, []netip.Addr{lb4}); err != nil {
		t.Fatal(err)
	}
	for _, in := range [][]byte{packettest.UDP(from4, to4, in4), packettest.UDP(from6, to6, in6)} {
		if _, out := run(t, r.objs.Receive, frame(in)); !bytes.Equal(out, in) {
			t.Error("taken though it is not accepted any more")
		}
	}
}
