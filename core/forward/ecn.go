package forward

import "encoding/binary"

// ECN fields (RFC 3168, §5).
const (
	notECT = 0
	ect1   = 1
	ect0   = 2
	ce     = 3
)

// class returns the DSCP and ECN of an IP packet, which the outer header gets (RFC
// 2983, §3.1; RFC 6040, §4.1); 0 for a nonce.
func class(b []byte) uint8 {
	switch {
	case len(b) < 20:
		return 0
	case b[0]>>4 == 4:
		return b[1]
	case b[0]>>4 == 6:
		return b[0]<<4 | b[1]>>4
	}
	return 0
}

// Fold brings the ECN field of IP packet b in line with that of the outer header
// that it came in, given by that one's DSCP and ECN (RFC 6040, §4.2). It reports
// false for one that is to be dropped: it says that it cannot take a mark, and got
// one. The agent's program does the same.
func Fold(b []byte, outer uint8) bool {
	inner := class(b) & 3
	switch outer & 3 {
	case ce:
		if inner == notECT {
			return false
		}
		if inner != ce {
			setECN(b, inner, ce)
		}
	case ect1:
		if inner == ect0 {
			setECN(b, inner, ect1)
		}
	}
	return true
}

// setECN replaces a field; IPv4's checksum is brought in line (RFC 1624).
func setECN(b []byte, was, ecn uint8) {
	if b[0]>>4 == 6 {
		b[1] = b[1]&^0x30 | ecn<<4
		return
	}
	sum := uint32(^binary.BigEndian.Uint16(b[10:])) + uint32(^uint16(was)) + uint32(ecn)
	sum = sum&0xffff + sum>>16
	b[1] = b[1]&^3 | ecn
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum&0xffff+sum>>16))
}
