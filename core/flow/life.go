package flow

import (
	"unsafe"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/packet"
)

// Touch accounts a packet of size bytes to a flow and moves it along:
// a segment without SYN, or a second datagram, establishes it; FIN or RST
// closes it. tcpFlags is 0 for UDP.
func (t *Table) Touch(e *Entry, tcpFlags uint8, size int, now uint32) {
	e.Seen = now
	e.Packets++
	e.Bytes += uint64(size)
	switch {
	case e.State == Established && tcpFlags&(packet.FIN|packet.RST) == 0, e.State == Closing:
	case tcpFlags&(packet.FIN|packet.RST) != 0:
		t.move(e, Closing)
	case e.Key.Proto == core.ProtoTCP && tcpFlags&packet.SYN == 0, e.Key.Proto != core.ProtoTCP && e.Packets > 1:
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
	udp := 0
	if e.Key.Proto != core.ProtoTCP {
		udp = 1
	}
	return t.timeout[e.State][udp]
}

// Sweep looks at the next n entries, wrapping around, and ends the flows that
// were silent for too long or for which ended, if not nil, says so.
func (t *Table) Sweep(n int, now uint32, ended func(*Entry) bool) {
	for range min(n, int(t.used)) {
		if t.cursor >= t.used {
			t.cursor = 0
		}
		e := &t.entries[t.cursor]
		t.cursor++
		if e.State == free {
			continue
		}
		if ended != nil && ended(e) || now-e.Seen > t.idle(e) {
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

// entryNumber is e's index in entries, which it must point into.
func entryNumber(entries []Entry, e *Entry) uint32 {
	return uint32((uintptr(unsafe.Pointer(e)) - uintptr(unsafe.Pointer(&entries[0]))) / unsafe.Sizeof(Entry{}))
}
