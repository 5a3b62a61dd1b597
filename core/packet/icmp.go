package packet

import (
	"encoding/binary"

	"github.com/caplance/caplance/core"
)

const (
	protoICMP   = 1
	protoICMPv6 = 58
)

// ICMP types that report an error about a packet, which they quote
// (RFC 792; RFC 4443, §2.1).
const (
	icmpUnreachable  = 3
	icmpTimeExceeded = 11
	icmpParameter    = 12

	icmp6Unreachable  = 1
	icmp6TooBig       = 2
	icmp6TimeExceeded = 3
	icmp6Parameter    = 4
)

// icmpError recognises an ICMP error in t and takes the flow from the packet
// it quotes. Errors about anything but TCP and UDP, and quotes too short to
// carry ports, stay of kind Other.
func (p *Packet) icmpError(t []byte) {
	if len(t) < 8 || !isError(p.Family, p.Key.Proto, t[0]) {
		return
	}
	src, dst, proto, ports, ok := quoted(t[8:])
	if !ok || dst == p.Key.Dst { // quoted: VIP → client; the client cannot be the VIP
		return
	}
	p.Kind = ICMPError
	p.Key = core.FlowKey{
		Src: dst, Dst: src, Proto: proto,
		SrcPort: binary.BigEndian.Uint16(ports[2:]),
		DstPort: binary.BigEndian.Uint16(ports),
	}
}

func isError(family, proto, typ uint8) bool {
	if family == 4 && proto == protoICMP {
		return typ == icmpUnreachable || typ == icmpTimeExceeded || typ == icmpParameter
	}
	return family == 6 && proto == protoICMPv6 && typ >= icmp6Unreachable && typ <= icmp6Parameter
}

// quoted reads the head of a packet that an ICMP error carries; only the
// first 8 bytes of its transport header are promised (RFC 792).
func quoted(b []byte) (src, dst [16]byte, proto uint8, ports []byte, ok bool) {
	at := 0
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		if at = int(b[0]&15) * 4; at < 20 || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return
		}
		map4(&src, b[12:16])
		map4(&dst, b[16:20])
		proto = b[9]
	case len(b) >= 40 && b[0]>>4 == 6:
		inner := Packet{Header: 40}
		next, err := inner.extensions(b, b[6])
		if err != nil || inner.Offset != 0 {
			return
		}
		copy(src[:], b[8:24])
		copy(dst[:], b[24:40])
		at, proto = inner.Header, next
	default:
		return
	}
	if (proto != core.ProtoTCP && proto != core.ProtoUDP) || len(b) < at+4 {
		return
	}
	return src, dst, proto, b[at : at+4], true
}

// MaxError is the space that an ICMP error may fill, bytes.
const MaxError = 1280

// The smallest packets that an ICMP error may ask for: every host takes these
// whole (RFC 791, §3.1; RFC 8200, §5), and less is asked for by forgeries.
const (
	least4 = 576
	least6 = 1280
)

// Least returns the smallest MTU that TooBig tells the sender of a packet of the
// family, bytes.
func Least(family uint8) int {
	if family == 4 {
		return least4
	}
	return least6
}

// TooBig writes into dst the ICMP error that tells the sender of packet b
// (parsed as p) to keep to mtu bytes, or to Least: IPv4 "fragmentation needed"
// (RFC 1191, §4) or IPv6 "packet too big" (RFC 4443, §3.2). Its source is the
// VIP, the one address of this machine that the client surely accepts packets
// from. It returns the finished packet, a prefix of dst. dst holds MaxError bytes.
func TooBig(dst, b []byte, p *Packet, mtu int) []byte {
	mtu = max(mtu, Least(p.Family))
	if p.Family == 4 {
		return error4(dst, b, icmpUnreachable, 4, uint32(mtu))
	}
	return error6(dst, b, icmp6TooBig, 0, uint32(mtu))
}

// TimeExceeded writes into dst the ICMP error that tells the sender of packet b
// (parsed as p) that its TTL or hop limit ended here (RFC 792; RFC 4443, §3.3),
// as TooBig does.
func TimeExceeded(dst, b []byte, p *Packet) []byte {
	if p.Family == 4 {
		return error4(dst, b, icmpTimeExceeded, 0, 0)
	}
	return error6(dst, b, icmp6TimeExceeded, 0, 0)
}

// PortUnreachable writes, as TooBig does, the ICMP error that tells the sender of
// packet b that nobody is at its port (RFC 792; RFC 4443, §3.1).
func PortUnreachable(dst, b []byte, p *Packet) []byte {
	if p.Family == 4 {
		return error4(dst, b, icmpUnreachable, 3, 0)
	}
	return error6(dst, b, icmp6Unreachable, 4, 0)
}

// error4 quotes b behind a header whose second word is given.
func error4(dst, b []byte, typ, code uint8, word uint32) []byte {
	const head = 20 + 8
	quote := min(len(b), 576-head) // RFC 1812, §4.3.2.3
	out := dst[:head+quote]
	answer4(out, b, protoICMP)
	icmp := out[20:]
	clear(icmp[:8])
	icmp[0], icmp[1] = typ, code
	binary.BigEndian.PutUint32(icmp[4:], word)
	copy(icmp[8:], b[:quote])
	binary.BigEndian.PutUint16(icmp[2:], ^fold(sum(0, icmp)))
	return out
}

func error6(dst, b []byte, typ, code uint8, word uint32) []byte {
	const head = 40 + 8
	quote := min(len(b), MaxError-head)
	out := dst[:head+quote]
	answer6(out, b, protoICMPv6)
	icmp := out[40:]
	clear(icmp[:8])
	icmp[0], icmp[1] = typ, code
	binary.BigEndian.PutUint32(icmp[4:], word)
	copy(icmp[8:], b[:quote])
	pseudo := sum(uint64(len(icmp))+protoICMPv6, out[8:40])
	binary.BigEndian.PutUint16(icmp[2:], ^fold(sum(pseudo, icmp)))
	return out
}

// answer4 writes the header of a packet, out, from the destination of b to its
// source.
func answer4(out, b []byte, proto uint8) {
	clear(out[:20])
	out[0] = 0x45
	binary.BigEndian.PutUint16(out[2:], uint16(len(out)))
	out[8], out[9] = 64, proto
	copy(out[12:16], b[16:20])
	copy(out[16:20], b[12:16])
	binary.BigEndian.PutUint16(out[10:], ^fold(sum(0, out[:20])))
}

func answer6(out, b []byte, proto uint8) {
	clear(out[:40])
	out[0] = 0x60
	binary.BigEndian.PutUint16(out[4:], uint16(len(out)-40))
	out[6], out[7] = proto, 64
	copy(out[8:24], b[24:40])
	copy(out[24:40], b[8:24])
}

// sum adds b's 16-bit words to s (RFC 1071); fold finishes it.
func sum(s uint64, b []byte) uint64 {
	for ; len(b) >= 4; b = b[4:] {
		s += uint64(binary.BigEndian.Uint32(b))
	}
	if len(b) >= 2 {
		s += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint64(b[0]) << 8
	}
	return s
}

func fold(s uint64) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
