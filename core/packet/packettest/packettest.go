// Package packettest builds whole IP packets for tests and benchmarks.
//
//	syn := packettest.TCP(client, vip, packet.SYN, nil)
package packettest

import (
	"encoding/binary"
	"net/netip"
)

// TCP returns a segment from src to dst, both of one family, with right checksums.
func TCP(src, dst netip.AddrPort, flags uint8, payload []byte) []byte {
	return TCPAt(0, src, dst, flags, payload)
}

// TCPAt is TCP with a sequence number.
func TCPAt(seq uint32, src, dst netip.AddrPort, flags uint8, payload []byte) []byte {
	t := make([]byte, 20, 20+len(payload))
	binary.BigEndian.PutUint32(t[4:], seq)
	t[12], t[13] = 5<<4, flags
	binary.BigEndian.PutUint16(t[14:], 65535)
	return transport(src, dst, 6, append(t, payload...), 16)
}

// UDP returns a datagram from src to dst, both of one family.
func UDP(src, dst netip.AddrPort, payload []byte) []byte {
	t := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(t[4:], uint16(8+len(payload)))
	return transport(src, dst, 17, append(t, payload...), 6)
}

// ICMPError returns an error of the given type and code from router about quoted,
// a packet that was on its way; it is addressed to that packet's source.
func ICMPError(router netip.Addr, typ, code uint8, quoted []byte) []byte {
	t := append([]byte{typ, code, 0, 0, 0, 0, 0, 0}, quoted...)
	if router.Is4() {
		binary.BigEndian.PutUint16(t[2:], ^Sum(0, t))
		return IP(router, netip.AddrFrom4([4]byte(quoted[12:16])), 1, t)
	}
	dst := netip.AddrFrom16([16]byte(quoted[8:24]))
	binary.BigEndian.PutUint16(t[2:], ^Sum(pseudo(router, dst, 58, len(t)), t))
	return IP(router, dst, 58, t)
}

// IP puts an IP header before a transport packet. DF is set.
func IP(src, dst netip.Addr, proto uint8, transport []byte) []byte {
	if src.Is4() {
		h := make([]byte, 20, 20+len(transport))
		h[0], h[6], h[8], h[9] = 0x45, 0x40, 64, proto
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(transport)))
		copy(h[12:], src.AsSlice())
		copy(h[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(h[10:], ^Sum(0, h))
		return append(h, transport...)
	}
	h := make([]byte, 40, 40+len(transport))
	h[0], h[6], h[7] = 0x60, proto, 64
	binary.BigEndian.PutUint16(h[4:], uint16(len(transport)))
	copy(h[8:], src.AsSlice())
	copy(h[24:], dst.AsSlice())
	return append(h, transport...)
}

func transport(src, dst netip.AddrPort, proto uint8, t []byte, checksum int) []byte {
	binary.BigEndian.PutUint16(t, src.Port())
	binary.BigEndian.PutUint16(t[2:], dst.Port())
	binary.BigEndian.PutUint16(t[checksum:], ^Sum(pseudo(src.Addr(), dst.Addr(), proto, len(t)), t))
	return IP(src.Addr(), dst.Addr(), proto, t)
}

func pseudo(src, dst netip.Addr, proto uint8, size int) uint32 {
	s := uint32(proto) + uint32(size)
	s += uint32(Sum(0, src.AsSlice()))
	return s + uint32(Sum(0, dst.AsSlice()))
}

// Sum returns the folded ones' complement sum of b, word by word (RFC 1071),
// written apart from the packet package's so that it can check it.
func Sum(start uint32, b []byte) uint16 {
	s := start
	for i, c := range b {
		if i%2 == 0 {
			s += uint32(c) << 8
		} else {
			s += uint32(c)
		}
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// Checksum4 reports whether an IPv4 header's checksum is right.
func Checksum4(b []byte) bool { return Sum(0, b[:int(b[0]&15)*4]) == 0xffff }
