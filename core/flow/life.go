package flow

import (
	"unsafe"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/packet"
)

// Segment is what of a packet moves its flow along; all but Size is zero for UDP.
type Segment struct {
	Flags   uint8  // of TCP
	Seq     uint32 // of TCP
	Ack     uint32 // of TCP
	Payload int    // bytes behind TCP's header
	Size    int    // of the packet, bytes
}

// Touch accounts a packet to a flow and moves it along: a segment without SYN, or a
// second datagram, establishes it; FIN or RST closes it.
func (t *Table) Touch(e *Entry, s Segment, now uint32) {
	e.Seen = now
	e.Packets++
	e.Bytes += uint64(s.Size)
	if e.State == Offloaded {
		return
	}
	if e.Key.Proto != core.ProtoTCP {
		if e.Packets > 1 && e.State == Pending {
			t.move(e, Established)
		}
		return
	}
	to := e.track(s)
	if to == e.State || to == Established && e.State == Pending && t.Strict && e.Tells && !e.Proven {
		return
	}
	t.move(e, to)
}

// window is how far a segment may be from what is expected, as in flows.h.
const window = 1 << 16

// track follows a TCP flow and returns its next state. A FIN or RST counts only near
// the place where the client is: others can forge one, but not its sequence
// number (RFC 5961). What the client sends after it takes it back.
func (e *Entry) track(s Segment) State {
	next, to := s.Seq+uint32(s.Payload), e.State
	switch {
	case s.Flags&(packet.SYN|packet.ACK) == packet.SYN:
		if e.Packets > 1 {
			e.Reopened = true
			return to
		}
		next++
	case e.expect != 0 && s.Seq-e.expect+window >= 2*window:
		return e.opened()
	case s.Flags&packet.RST != 0:
		to, e.Half = Closing, false
	case s.Flags&packet.FIN != 0:
		to, e.Half = Closing, true
		next++
	case to != Closing || int32(next-e.expect) > 0:
		to = Established
	}
	if s.Flags&packet.ACK != 0 {
		e.Ack = s.Ack
	}
	if e.expect == 0 || int32(next-e.expect) > 0 {
		e.expect = next
	}
	return to
}

// opened returns the state after a segment that says nothing of the client.
func (e *Entry) opened() State {
	if e.State == Pending {
		return Established
	}
	return e.State
}

// Offload makes an entry a memo.
func (t *Table) Offload(e *Entry) { t.move(e, Offloaded) }

// Reclaim makes a memo a flow again.
func (t *Table) Reclaim(e *Entry) { t.move(e, Established) }

// Prove notes that the connection of a flow is there, which counts as a packet:
// what was seen of its end did not happen.
func (t *Table) Prove(e *Entry, now uint32) {
	e.Seen, e.Proven, e.Reopened, e.Ended = now, true, false, false
	if e.State != Established {
		t.move(e, Established)
	}
}

func (t *Table) move(e *Entry, s State) {
	t.unlink(e)
	e.State = s
	t.push(t.number(e))
}

// Idle is the time for which a flow may stay silent, ms.
func (t *Table) idle(e *Entry) uint32 {
	l := &t.limits
	if int(e.Service) < len(t.own) {
		l = &t.own[e.Service]
	}
	if e.State == Closing && e.Half {
		return l.half
	}
	udp := 0
	if e.Key.Proto != core.ProtoTCP {
		udp = 1
	}
	return l.timeout[e.State][udp]
}

// Sweep looks at the next n entries, wrapping around, and ends those that judge
// says are over; silent says that a flow was silent for too long. Without a judge
// that ends it.
func (t *Table) Sweep(n int, now uint32, judge func(e *Entry, silent bool) (over bool)) {
	for range min(n, int(t.used)) {
		if t.cursor >= t.used {
			t.cursor = 0
		}
		e := &t.entries[t.cursor]
		t.cursor++
		if e.State == free {
			continue
		}
		silent := now-e.Seen > t.idle(e)
		if judge == nil && silent || judge != nil && judge(e, silent) {
			t.Remove(e)
		}
	}
}

// Walk shows the flows among the n entries from number at on, and returns
// where to go on, or -1 at the end. Entries must not be kept.
func (t *Table) Walk(at, n int, show func(*Entry)) int {
	end := min(at+n, int(t.used))
	for ; at < end; at++ {
		if e := &t.entries[at]; e.State != free {
			show(e)
		}
	}
	if at >= int(t.used) {
		return -1
	}
	return at
}

// entryNumber returns e's index in entries, which it must point into.
func entryNumber(entries []Entry, e *Entry) uint32 {
	return uint32((uintptr(unsafe.Pointer(e)) - uintptr(unsafe.Pointer(&entries[0]))) / unsafe.Sizeof(Entry{}))
}
