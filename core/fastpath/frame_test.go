package fastpath

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/packet/packettest"
	"github.com/cilium/ebpf"
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

const (
	fin    = packet.FIN
	syn    = packet.SYN
	rst    = packet.RST
	ack    = packet.ACK
	finAck = fin | ack
	synAck = syn | ack
)

// tcp returns a segment with size bytes of payload, in a frame.
func tcp(src, dst netip.AddrPort, flags uint8, size int) []byte {
	return frame(packettest.TCP(src, dst, flags, payload(size)))
}

// udp returns a datagram with size bytes of payload, in a frame.
func udp(src, dst netip.AddrPort, size int) []byte {
	return frame(packettest.UDP(src, dst, payload(size)))
}

func tcp4(flags uint8, size int) []byte { return tcp(client4, vip4, flags, size) }
func tcp6(flags uint8, size int) []byte { return tcp(client6, vip6, flags, size) }
func udp4(size int) []byte              { return udp(client4, vip4, size) }
func udp6(size int) []byte              { return udp(client6, vip6, size) }

func payload(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// frame puts an Ethernet header before an IP packet.
func frame(b []byte) []byte {
	if b[0]>>4 == 6 {
		return ether(0x86dd, b)
	}
	return ether(0x0800, b)
}

// ether addresses it to the link of test runs, lo, whose MAC is zero.
func ether(kind uint16, b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(append(make([]byte, 6), bytes.Repeat([]byte{2}, 6)...), kind), b...)
}

// addressed returns a frame with another destination.
func addressed(in []byte, mac ...byte) []byte {
	copy(in, mac)
	return in
}

// with writes bytes at an offset into a frame's IP packet.
func with(in []byte, at int, b ...byte) []byte {
	copy(in[14+at:], b)
	return in
}

// padded returns a frame with zeros behind the packet.
func padded(in []byte, to int) []byte { return append(in, make([]byte, to-len(in))...) }

// run shows a frame to a program and returns its verdict and what became of the
// frame.
func run(t *testing.T, p *ebpf.Program, frame []byte, context any) (verdict uint32, out []byte) {
	t.Helper()
	opts := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256), Context: context}
	verdict, err := p.Run(&opts)
	if err != nil {
		t.Fatal(err)
	}
	return verdict, opts.DataOut
}

// forwarded returns the frame that a backend must get for what came in.
func (s *testbed) forwarded(in []byte, b backend, sport uint16, gso super) []byte {
	return s.forwardedUpTo(in, 14+length(in, gso), b, sport)
}

// forwardedUpTo does so for a packet that ends after so many bytes of the frame.
func (s *testbed) forwardedUpTo(in []byte, n int, b backend, sport uint16) []byte {
	t := b.target(s.link)
	if t.Direct {
		if t.MAC == nil || s.dead { // the kernel's neighbour table gives them
			return slices.Concat(in[:14], hopped(in[14:]))
		}
		return slices.Concat(t.MAC, t.LinkMAC, in[12:14], hopped(in[14:]))
	}
	if t.MAC == nil {
		t.MAC, t.LinkMAC = make([]byte, 6), make([]byte, 6)
	}
	outer := packettest.IP(t.Source, t.Addr, core.ProtoUDP, tunnelled(sport, port, hopped(in[14:n])))
	mark(outer, class(in[14:]))
	return slices.Concat(t.MAC, t.LinkMAC, frame(outer)[12:], in[n:])
}

// hopped returns an IP packet as a router sends it on, one TTL less, and the
// checksum by RFC 1624's equation 3.
func hopped(in []byte) []byte {
	b := bytes.Clone(in)
	if b[0]>>4 == 6 {
		b[7]--
		return b
	}
	was := binary.BigEndian.Uint16(b[8:])
	b[8]--
	sum := packettest.Sum(uint32(^binary.BigEndian.Uint16(b[10:]))+uint32(^was)+uint32(binary.BigEndian.Uint16(b[8:])), nil)
	binary.BigEndian.PutUint16(b[10:], ^sum)
	return b
}

// class returns an IP packet's DSCP and ECN.
func class(b []byte) uint8 {
	if b[0]>>4 == 4 {
		return b[1]
	}
	return b[0]<<4 | b[1]>>4
}

// mark gives a packet without DSCP and ECN some.
func mark(b []byte, class uint8) {
	if b[0]>>4 == 6 {
		b[0], b[1] = b[0]|class>>4, b[1]|class<<4
		return
	}
	b[1], b[10], b[11] = class, 0, 0
	binary.BigEndian.PutUint16(b[10:], ^packettest.Sum(0, b[:20]))
}

// tunnelled returns a UDP datagram without checksum.
func tunnelled(sport, dport uint16, inner []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	b = binary.BigEndian.AppendUint32(b, uint32(8+len(inner))<<16)
	return append(b, inner...)
}

// length returns that of the IP packet in a frame, without padding.
func length(in []byte, gso super) int {
	var p packet.Packet
	if gso.size > 0 || p.Parse(in[14:]) != nil {
		return len(in) - 14
	}
	return p.Length
}

// keyOf returns the flow of a frame, whatever length the packet says that it has.
func keyOf(in []byte) *core.FlowKey {
	var p packet.Packet
	b := bytes.Clone(in[14:])
	if len(b) >= 40 && b[0]>>4 == 6 {
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	} else if len(b) >= 20 {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	}
	_ = p.Parse(b)
	return &p.Key
}

// super makes a packet a super-packet of segs segments with size bytes of
// payload.
type super struct{ size, segs uint32 }

// context returns a struct __sk_buff, of which the kernel takes these fields.
func (g super) context() any {
	return struct {
		_       [164]byte
		GSOSegs uint32
		_       [8]byte
		GSOSize uint32
		_       [12]byte
	}{GSOSegs: g.segs, GSOSize: g.size}
}

// key returns the flow from src to dst.
func key(src, dst netip.AddrPort, proto uint8) *core.FlowKey {
	return &core.FlowKey{Src: src.Addr().As16(), Dst: dst.Addr().As16(), SrcPort: src.Port(), DstPort: dst.Port(), Proto: proto}
}
