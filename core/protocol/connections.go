package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"time"

	"github.com/caplance/caplance/core"
)

// The second stream of a session, on which an agent and its balancer talk of TCP
// connections: frames of a header and records, numbers in network order.
//
//	header  bytes of the records (2), kind (1), zero (1)
//	record  family 4 or 6 (1), value (2), client's address, VIP, client's port (2), VIP's port (2)

// StreamLease is how long an agent may be silent on it.
const StreamLease = 30 * time.Second

// FrameKind is what a frame says of the connections in it.
type FrameKind uint8

// The kinds. Others are ignored, so that versions mix.
const (
	EndedFrame    FrameKind = 1 // agent: they ended; the value is how long ago, ms
	QuestionFrame FrameKind = 2 // balancer: are they there?
	AnswerFrame   FrameKind = 3 // agent: the value is a ConnState
	LostFrame     FrameKind = 4 // agent: it has missed some that ended; no records
	CensusFrame   FrameKind = 5 // balancer: how many are there? no records
	CountFrame    FrameKind = 6 // agent: the value is how many a port of a VIP has, the client is nobody; an empty one is the last
)

// ConnState is the answer to a question.
type ConnState uint16

// The answers.
const (
	ConnUnknown ConnState = 0 // the agent cannot tell
	ConnGone    ConnState = 1
	ConnOpening ConnState = 2 // the handshake is not over
	ConnAlive   ConnState = 3
)

// Report is a record: what is said of one connection.
type Report struct {
	Key   core.FlowKey // of TCP
	Value uint16
}

// AppendCounts appends the answer to a CensusFrame. What does not fit into the value
// of one record is in several.
func AppendCounts(b []byte, counts map[netip.AddrPort]int) []byte {
	var reports []Report
	for at, n := range counts {
		nobody := netip.IPv4Unspecified()
		if at.Addr().Is6() {
			nobody = netip.IPv6Unspecified()
		}
		for ; n > 0; n -= math.MaxUint16 {
			r := Report{Value: uint16(min(n, math.MaxUint16))}
			r.Key.Src, r.Key.Dst, r.Key.DstPort = nobody.As16(), at.Addr().As16(), at.Port()
			reports = append(reports, r)
		}
	}
	if len(reports) > 0 {
		b = AppendFrames(b, CountFrame, reports)
	}
	return AppendFrames(b, CountFrame, nil)
}

// MaxFrame is the largest sum of the records of a frame, bytes.
const MaxFrame = 16 << 10

const (
	frameHeader = 4
	record4     = 1 + 2 + 4 + 4 + 2 + 2
	record6     = 1 + 2 + 16 + 16 + 2 + 2
)

// ErrFrame says that a frame cannot be read; there is no telling where the next
// begins.
var ErrFrame = errors.New("frame is malformed")

// AppendFrames appends frames of one kind that hold the reports.
func AppendFrames(b []byte, kind FrameKind, reports []Report) []byte {
	for first := true; first || len(reports) > 0; first = false {
		at := len(b)
		b = append(b, 0, 0, byte(kind), 0)
		for len(reports) > 0 && len(b)-at-frameHeader+record6 <= MaxFrame {
			b = reports[0].append(b)
			reports = reports[1:]
		}
		binary.BigEndian.PutUint16(b[at:], uint16(len(b)-at-frameHeader))
	}
	return b
}

// mapped is how an IPv4 address begins in a key.
var mapped = [12]byte{10: 0xff, 11: 0xff}

func (r *Report) append(b []byte) []byte {
	k, family, skip := &r.Key, byte(6), 0
	if [12]byte(k.Src[:12]) == mapped && [12]byte(k.Dst[:12]) == mapped {
		family, skip = 4, 12
	}
	b = binary.BigEndian.AppendUint16(append(b, family), r.Value)
	b = append(append(b, k.Src[skip:]...), k.Dst[skip:]...)
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, k.SrcPort), k.DstPort)
}

// ReadFrame reads a frame and appends its records to reports. A record of
// another family than 4 and 6 is ErrFrame.
func ReadFrame(r io.Reader, reports []Report) (FrameKind, []Report, error) {
	var h [frameHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, reports, err
	}
	size := binary.BigEndian.Uint16(h[:])
	if size > MaxFrame {
		return 0, reports, fmt.Errorf("%w: %d bytes of records, more than %d", ErrFrame, size, MaxFrame)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, reports, err
	}
	kind := FrameKind(h[2])
	if kind < EndedFrame || kind > CountFrame {
		return kind, reports, nil
	}
	for len(body) > 0 {
		rep, n := parseReport(body)
		if n == 0 {
			return 0, reports, fmt.Errorf("%w: a record of %d bytes", ErrFrame, len(body))
		}
		reports, body = append(reports, rep), body[n:]
	}
	return kind, reports, nil
}

// parseReport reads a record and returns its length, 0 if it is none.
func parseReport(b []byte) (r Report, n int) {
	size := 4
	switch {
	case b[0] == 4 && len(b) >= record4:
		n = record4
		copy(r.Key.Src[:], mapped[:])
		copy(r.Key.Dst[:], mapped[:])
	case b[0] == 6 && len(b) >= record6:
		n, size = record6, 16
	default:
		return r, 0
	}
	r.Value, r.Key.Proto = binary.BigEndian.Uint16(b[1:]), core.ProtoTCP
	copy(r.Key.Src[16-size:], b[3:3+size])
	copy(r.Key.Dst[16-size:], b[3+size:3+2*size])
	ports := b[3+2*size:]
	r.Key.SrcPort, r.Key.DstPort = binary.BigEndian.Uint16(ports), binary.BigEndian.Uint16(ports[2:])
	return r, n
}

// Milliseconds returns a time as the value of a record.
func Milliseconds(ms int64) uint16 { return uint16(min(max(ms, 0), math.MaxUint16)) }
