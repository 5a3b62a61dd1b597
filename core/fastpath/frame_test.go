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

// tcp is a segment with size bytes of payload, in a frame.
func tcp(src, dst netip.AddrPort, flags uint8, size int) []byte {
	return frame(packettest.TCP(src, dst, flags, payload(size)))
}

// udp is a datagram with size bytes of payload, in a frame.
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

func ether(kind uint16, b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(bytes.Repeat([]byte{2}, 12), kind), b...)
}

// with writes bytes at an offset into a frame's IP packet.
func with(in []byte, at int, b ...byte) []byte {
	copy(in[14+at:], b)
	return in
}

// padded is a frame with zeros behind the packet.
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

// forwarded is the frame that a backend must get for what came in.
func (s *scene) forwarded(in []byte, b backend, sport uint16, gso super) []byte {
	t := b.target(s.link)
	if t.Direct {
		if t.MAC == nil || s.dead { // the kernel's neighbour table gives them
			return in
		}
		return slices.Concat(t.MAC, t.LinkMAC, in[12:])
	}
	if t.MAC == nil {
		t.MAC, t.LinkMAC = make([]byte, 6), make([]byte, 6)
	}
	n := 14 + length(in, gso)
	outer := packettest.IP(t.Source, t.Addr, core.ProtoUDP, tunnelled(sport, port, in[14:n]))
	return slices.Concat(t.MAC, t.LinkMAC, frame(outer)[12:], in[n:])
}

// tunnelled is a UDP datagram without checksum.
func tunnelled(sport, dport uint16, inner []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	b = binary.BigEndian.AppendUint32(b, uint32(8+len(inner))<<16)
	return append(b, inner...)
}

// sourcePort is the outer one of a tunnelled packet, which lies in 0xc000 to
// 0xffff.
func sourcePort(out []byte) uint16 {
	var p packet.Packet
	if len(out) < 14 || p.Parse(out[14:]) != nil {
		return 0
	}
	return p.Key.SrcPort | 0xc000
}

// length is that of the IP packet in a frame, without padding.
func length(in []byte, gso super) int {
	var p packet.Packet
	if gso.size > 0 || p.Parse(in[14:]) != nil {
		return len(in) - 14
	}
	return p.Length
}

// keyOf is the flow of a frame, whatever length the packet says that it has.
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

// context is a struct __sk_buff, of which the kernel takes these fields.
func (g super) context() any {
	return struct {
		_       [164]byte
		GSOSegs uint32
		_       [8]byte
		GSOSize uint32
		_       [12]byte
	}{GSOSegs: g.segs, GSOSize: g.size}
}

// key is the flow from src to dst.
func key(src, dst netip.AddrPort, proto uint8) *core.FlowKey {
	return &core.FlowKey{Src: src.Addr().As16(), Dst: dst.Addr().As16(), SrcPort: src.Port(), DstPort: dst.Port(), Proto: proto}
}
