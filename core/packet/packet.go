// Package packet reads and builds the headers that the balancer needs: IPv4,
// IPv6 with its extension headers, TCP, UDP, and the ICMP errors that concern
// a flow. It allocates nothing and never reads past the slice it is given;
// Parse is fuzzed.
//
//	var p packet.Packet
//	if err := p.Parse(b); err != nil { … }
//	if p.Kind == packet.Transport { flows.Find(&p.Key) }
package packet

import (
	"encoding/binary"
	"errors"

	"github.com/caplance/caplance/core"
)

// Why Parse refuses a packet.
var (
	ErrVersion   = errors.New("packet: neither IPv4 nor IPv6")
	ErrTruncated = errors.New("packet: shorter than its headers say")
	ErrHeader    = errors.New("packet: header length out of range")
)

// Kind says what Parse found behind the IP header.
type Kind uint8

// The kinds of packet that the datapath tells apart.
const (
	Other     Kind = iota // no TCP, UDP or ICMP error
	Transport             // TCP or UDP with ports: Key is whole
	Fragment              // not the first fragment: Key has no ports
	ICMPError             // an ICMP error about a flow: Key is that flow's
)

// TCP flag bits (RFC 9293, §3.1).
const (
	FIN uint8 = 1 << 0
	SYN uint8 = 1 << 1
	RST uint8 = 1 << 2
	ACK uint8 = 1 << 4
)

// Packet is what one IP packet says. It keeps no reference to the bytes.
type Packet struct {
	// Key is the flow in the client's direction. For an ICMP error it is
	// rebuilt from the quoted packet, which travelled backend → client.
	Key      core.FlowKey
	Kind     Kind
	Family   uint8  // 4 or 6
	TTL      uint8  // of IPv6 the hop limit
	TCPFlags uint8  // of a TCP segment
	DF       bool   // may not be fragmented: IPv4 with DF, every IPv6 packet
	More     bool   // a fragment that others follow
	Atomic   bool   // has a fragment header, but is the whole datagram (RFC 6946)
	Offset   uint16 // fragment offset, bytes
	FragID   uint32 // identification shared by the fragments of a datagram
	Front    int    // bytes before what the fragments of a datagram share out
	Header   int    // bytes before the transport header
	Length   int    // bytes of the packet, at most len of what was parsed
	Seq, Ack uint32 // of a TCP segment; no ACK without its flag
	Payload  int    // bytes behind its header
}

// IsFragment reports whether the packet is any fragment of a datagram, the first
// included.
func (p *Packet) IsFragment() bool { return p.More || p.Offset != 0 }

// Carried returns how many bytes of its datagram a fragment carries.
func (p *Packet) Carried() int { return p.Length - p.Front }

// Plain reports whether the packet has a transport header right behind an IP header
// without options: what the kernel's programs can handle.
func (p *Packet) Plain() bool {
	return p.Kind == Transport && !p.IsFragment() && (p.Family == 4 && p.Header == 20 || p.Family == 6 && p.Header == 40)
}

// Parse reads the IP packet in b (no link-layer header).
func (p *Packet) Parse(b []byte) error {
	*p = Packet{}
	if len(b) < 20 {
		return ErrTruncated
	}
	switch b[0] >> 4 {
	case 4:
		return p.parse4(b)
	case 6:
		return p.parse6(b)
	}
	return ErrVersion
}

// parse4 follows RFC 791, §3.1.
func (p *Packet) parse4(b []byte) error {
	p.Family = 4
	p.Header = int(b[0]&15) * 4
	p.Front = p.Header
	p.Length = int(binary.BigEndian.Uint16(b[2:]))
	if p.Header < 20 || p.Length < p.Header {
		return ErrHeader
	}
	if p.Length > len(b) {
		return ErrTruncated
	}
	b = b[:p.Length]
	frag := binary.BigEndian.Uint16(b[6:])
	p.DF = frag&0x4000 != 0
	p.More = frag&0x2000 != 0
	p.Offset = frag & 0x1fff * 8
	p.FragID = uint32(binary.BigEndian.Uint16(b[4:]))
	p.TTL = b[8]
	map4(&p.Key.Src, b[12:16])
	map4(&p.Key.Dst, b[16:20])
	p.Key.Proto = b[9]
	return p.transport(b)
}

// parse6 follows RFC 8200, §3 and §4.
func (p *Packet) parse6(b []byte) error {
	p.Family, p.DF = 6, true
	if len(b) < 40 {
		return ErrTruncated
	}
	p.Length = 40 + int(binary.BigEndian.Uint16(b[4:]))
	if p.Length > len(b) {
		return ErrTruncated
	}
	b = b[:p.Length]
	p.TTL = b[7]
	copy(p.Key.Src[:], b[8:24])
	copy(p.Key.Dst[:], b[24:40])
	p.Header = 40
	next, err := p.extensions(b, b[6])
	if err != nil {
		return err
	}
	p.Key.Proto = next
	return p.transport(b)
}

// Extension headers of IPv6 (IANA ipv6-parameters).
const (
	extHopByHop    = 0
	extRouting     = 43
	extFragment    = 44
	extAuth        = 51
	extDestination = 60
)

// extensions moves Header behind the extension headers and returns the
// transport protocol.
func (p *Packet) extensions(b []byte, next uint8) (uint8, error) {
	for {
		size := 0
		switch next {
		case extHopByHop, extRouting, extDestination:
			size = 8
		case extFragment, extAuth:
			size = 8
		default:
			return next, nil
		}
		if len(b) < p.Header+size {
			return 0, ErrTruncated
		}
		h := b[p.Header:]
		switch next {
		case extFragment:
			if p.Front != 0 { // fragments of fragments (RFC 8200, §4.1)
				return 0, ErrHeader
			}
			frag := binary.BigEndian.Uint16(h[2:])
			p.Offset, p.More = frag&^7, frag&1 != 0
			p.Atomic = p.Offset == 0 && !p.More
			p.FragID = binary.BigEndian.Uint32(h[4:])
		case extAuth:
			size = (int(h[1]) + 2) * 4
		default:
			size = (int(h[1]) + 1) * 8
		}
		is := next
		next = h[0]
		if p.Header += size; p.Header > len(b) {
			return 0, ErrTruncated
		}
		if is == extFragment {
			p.Front = p.Header
		}
		if p.Offset != 0 {
			return next, nil // what follows belongs to an earlier fragment's chain
		}
	}
}

// transport reads what the datapath needs of the transport header at Header.
func (p *Packet) transport(b []byte) error {
	if p.Offset != 0 {
		p.Kind = Fragment
		return nil
	}
	t := b[p.Header:]
	switch p.Key.Proto {
	case core.ProtoTCP:
		if len(t) < 20 {
			return ErrTruncated
		}
		p.TCPFlags = t[13]
		p.Seq, p.Ack, p.Payload = binary.BigEndian.Uint32(t[4:]), binary.BigEndian.Uint32(t[8:]), max(len(t)-int(t[12]>>4)*4, 0)
	case core.ProtoUDP:
		if len(t) < 8 {
			return ErrTruncated
		}
	case protoICMP, protoICMPv6:
		p.icmpError(t)
		return nil
	default:
		return nil
	}
	p.Kind = Transport
	p.Key.SrcPort = binary.BigEndian.Uint16(t)
	p.Key.DstPort = binary.BigEndian.Uint16(t[2:])
	return nil
}

// map4 writes an IPv4 address as ::ffff:a.b.c.d.
func map4(dst *[16]byte, a []byte) {
	dst[10], dst[11] = 0xff, 0xff
	copy(dst[12:], a[:4])
}
