package verdict

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Message types of nfnetlink_queue (linux/netfilter/nfnetlink_queue.h).
const (
	subsysQueue     = unix.NFNL_SUBSYS_QUEUE << 8
	msgPacket       = subsysQueue | 0
	msgVerdict      = subsysQueue | 1
	msgConfig       = subsysQueue | 2
	msgVerdictBatch = subsysQueue | 3
)

// Attributes of a packet message and of a verdict.
const (
	attrPacketHdr  = 1 // struct nfqnl_msg_packet_hdr: be32 id, be16 protocol, u8 hook
	attrVerdictHdr = 2 // struct nfqnl_msg_verdict_hdr: be32 verdict, be32 id
	attrMark       = 3 // be32
	attrPayload    = 10
)

const (
	nlmsgHeader = 16
	genHeader   = 4 // struct nfgenmsg: u8 family, u8 version, be16 queue
	verdictSize = nlmsgHeader + genHeader + 4 + 8
)

// The verdicts (linux/netfilter.h).
const (
	nfDrop   = 0
	nfAccept = 1
)

// message is one queued packet as it arrives on the netlink socket.
type message struct {
	id      uint32
	mark    uint32
	payload []byte
}

// parse reads the first netlink message in b, which is queued packets' only
// shape: the kernel sends one message per datagram. It says false for anything
// but a whole packet message.
func (m *message) parse(b []byte) bool {
	if len(b) < nlmsgHeader+genHeader || binary.NativeEndian.Uint16(b[4:]) != msgPacket {
		return false
	}
	if n := int(binary.NativeEndian.Uint32(b)); n < len(b) {
		if n < nlmsgHeader+genHeader {
			return false
		}
		b = b[:n]
	}
	*m = message{}
	seen := false
	for b = b[nlmsgHeader+genHeader:]; len(b) >= 4; {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return false
		}
		v := b[4:n]
		switch binary.NativeEndian.Uint16(b[2:]) & 0x3fff { // without NLA_F_… bits
		case attrPacketHdr:
			if len(v) < 4 {
				return false
			}
			m.id, seen = binary.BigEndian.Uint32(v), true
		case attrMark:
			if len(v) < 4 {
				return false
			}
			m.mark = binary.BigEndian.Uint32(v)
		case attrPayload:
			m.payload = v
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return seen
}

// appendVerdict adds a verdict message to b: for one packet, or with
// msgVerdictBatch for all up to id that have none yet.
func appendVerdict(b []byte, typ, queue uint16, verdict, id uint32) []byte {
	b = binary.NativeEndian.AppendUint32(b, verdictSize)
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0) // sequence, port
	b = append(b, unix.AF_UNSPEC, unix.NFNETLINK_V0)
	b = binary.BigEndian.AppendUint16(b, queue)
	b = binary.NativeEndian.AppendUint16(b, 12)
	b = binary.NativeEndian.AppendUint16(b, attrVerdictHdr)
	b = binary.BigEndian.AppendUint32(b, verdict)
	return binary.BigEndian.AppendUint32(b, id)
}
