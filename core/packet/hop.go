package packet

import "encoding/binary"

// Hop takes one from the TTL or hop limit of IP packet b, as a router does, and
// brings IPv4's checksum in line (RFC 1624): the TTL is the high byte of its
// word.
func Hop(b []byte) {
	if b[0]>>4 == 6 {
		b[7]--
		return
	}
	b[8]--
	sum := uint32(binary.BigEndian.Uint16(b[10:])) + 0x0100
	if sum >= 0xffff {
		sum++
	}
	binary.BigEndian.PutUint16(b[10:], uint16(sum))
}
