package packet

import "encoding/binary"

// Fragmenter cuts one IP packet into fragments no longer than MTU bytes
// (RFC 791, §3.2; RFC 8200, §4.5), one for each call of Next. It is what a
// router does whose next link is smaller than the packet: the tunnel is such a
// link, and IPv4 packets without DF, or datagrams that the kernel had put
// together before we saw them, have to get through it.
type Fragmenter struct {
	packet []byte
	head   int    // bytes of headers repeated in every fragment
	base   uint16 // offset of the packet's own first byte, bytes
	more   bool   // the packet itself is followed by others
	size   int    // payload bytes of a fragment, a multiple of 8
	at     int    // payload bytes cut so far
	id     uint32
	v6     bool
	next   uint8 // IPv6: protocol behind the fragment header
}

// Start prepares to cut b, parsed as p. id identifies the datagram where b has
// no identification of its own (IPv6). It reports false when b cannot be cut
// to mtu: an mtu too small for a header, or IPv6 with extension headers.
func (f *Fragmenter) Start(b []byte, p *Packet, mtu int, id uint32) bool {
	*f = Fragmenter{packet: b[:p.Length], head: p.Header, base: p.Offset, more: p.More, id: id}
	room := mtu - p.Header
	if p.Family == 6 {
		if p.Header != 40 {
			return false
		}
		f.v6, f.next = true, b[6]
		room -= 8
	}
	f.size = room &^ 7
	return f.size >= 8
}

// Next writes the following fragment into dst and returns it, or nil when all
// have been written. dst holds MTU bytes.
func (f *Fragmenter) Next(dst []byte) []byte {
	payload := f.packet[f.head:]
	if f.at >= len(payload) {
		return nil
	}
	end := min(f.at+f.size, len(payload))
	last := end == len(payload) && !f.more
	offset := f.base + uint16(f.at)
	var out []byte
	if f.v6 {
		out = dst[:48+end-f.at]
		copy(out, f.packet[:40])
		out[6] = extFragment
		binary.BigEndian.PutUint16(out[4:], uint16(len(out)-40))
		out[40], out[41] = f.next, 0
		binary.BigEndian.PutUint16(out[42:], offset|flag(!last, 1))
		binary.BigEndian.PutUint32(out[44:], f.id)
		copy(out[48:], payload[f.at:end])
	} else {
		out = dst[:f.head+end-f.at]
		copy(out, f.packet[:f.head])
		binary.BigEndian.PutUint16(out[2:], uint16(len(out)))
		binary.BigEndian.PutUint16(out[6:], offset/8|flag(!last, 0x2000))
		out[10], out[11] = 0, 0
		binary.BigEndian.PutUint16(out[10:], ^fold(sum(0, out[:f.head])))
		copy(out[f.head:], payload[f.at:end])
	}
	f.at = end
	return out
}

func flag(on bool, bit uint16) uint16 {
	if on {
		return bit
	}
	return 0
}
