package packet

import (
	"encoding/binary"

	"github.com/caplance/caplance/core"
)

// Reset writes into dst the segment that answers segment b (parsed as p) of a
// connection that does not exist (RFC 9293, §3.10.7.1): its numbers are such that
// the sender takes it. It returns the finished packet, a prefix of dst, or nil
// where none is due: for a reset, or what is no whole segment. dst holds
// MaxError bytes.
func Reset(dst, b []byte, p *Packet) []byte {
	header := 20
	if p.Family == 6 {
		header = 40
	}
	in := b[p.Header:p.Length]
	if p.Kind != Transport || p.Key.Proto != core.ProtoTCP || p.IsFragment() || p.TCPFlags&RST != 0 || len(in) < 20 {
		return nil
	}
	offset := int(in[12]>>4) * 4
	if offset < 20 || offset > len(in) {
		return nil
	}
	out := dst[:header+20]
	if p.Family == 4 {
		answer4(out, b, core.ProtoTCP)
	} else {
		answer6(out, b, core.ProtoTCP)
	}
	resetHeader(out[header:], in, p.TCPFlags, len(in)-offset)
	addrs := out[header-8 : header]
	if p.Family == 6 {
		addrs = out[8:header]
	}
	pseudo := sum(20+uint64(core.ProtoTCP), addrs)
	binary.BigEndian.PutUint16(out[header+16:], ^fold(sum(pseudo, out[header:])))
	return out
}

// resetHeader writes the TCP header that answers one with some bytes of data.
func resetHeader(t, in []byte, flags uint8, data int) {
	clear(t)
	copy(t[0:2], in[2:4])
	copy(t[2:4], in[0:2])
	t[12], t[13] = 5<<4, RST
	if flags&ACK != 0 {
		copy(t[4:8], in[8:12]) // <SEQ=SEG.ACK><CTL=RST>
		return
	}
	// <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>
	length := uint32(data)
	if flags&SYN != 0 {
		length++
	}
	if flags&FIN != 0 {
		length++
	}
	binary.BigEndian.PutUint32(t[8:], binary.BigEndian.Uint32(in[4:])+length)
	t[13] = RST | ACK
}

// ResetOf writes into dst a segment that ends a connection on the client's side:
// seq is what the client acknowledged last, and so expects next (RFC 5961, §3.2).
// It returns the finished packet, a prefix of dst.
func ResetOf(dst []byte, k *core.FlowKey, seq uint32) []byte {
	header := 40
	v4 := k.SrcAddr().Addr().Is4()
	if v4 {
		header = 20
	}
	out := dst[:header+20]
	addrs := out[8:40]
	if v4 {
		var b [20]byte // as if the client had sent it
		copy(b[12:16], k.Src[12:])
		copy(b[16:20], k.Dst[12:])
		answer4(out, b[:], core.ProtoTCP)
		addrs = out[12:20]
	} else {
		var b [40]byte
		copy(b[8:24], k.Src[:])
		copy(b[24:40], k.Dst[:])
		answer6(out, b[:], core.ProtoTCP)
	}
	t := out[header:]
	clear(t)
	binary.BigEndian.PutUint16(t, k.DstPort)
	binary.BigEndian.PutUint16(t[2:], k.SrcPort)
	binary.BigEndian.PutUint32(t[4:], seq)
	t[12], t[13] = 5<<4, RST
	binary.BigEndian.PutUint16(t[16:], ^fold(sum(sum(20+uint64(core.ProtoTCP), addrs), t)))
	return out
}
