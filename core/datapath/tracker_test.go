package datapath

import (
	"encoding/binary"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caplance/caplance/core/packet"
)

// FuzzTracker gives it fragments and time as they come: it loses no fragment
// without counting it, keeps to its room, and its books are right.
func FuzzTracker(f *testing.F) {
	f.Add([]byte{0, 1, 0, 0, 100, 1, 1, 5, 0, 100, 2, 1, 0, 0, 100})
	f.Add([]byte{1, 1, 9, 255, 255, 1, 1, 3, 255, 255, 3, 0, 0, 0, 0, 0, 1, 0, 0, 8})
	f.Fuzz(func(t *testing.T, in []byte) {
		var tr tracker
		var lost atomic.Uint64
		tr.init(&lost)
		now := time.Unix(1, 0)
		given, passed := 0, 0
		for in = in[:min(len(in), 2000)]; len(in) >= 5; in = in[5:] {
			p := packet.Packet{Family: 4, Front: 20, Header: 20, FragID: uint32(in[1]), Kind: packet.Fragment, More: in[0]&16 == 0}
			p.More = p.More || in[0]&3 < 2
			p.Length = 20 + int(binary.BigEndian.Uint16(in[3:]))%65000
			switch in[0] & 3 {
			case 0, 1: // a first fragment, for a service or for the host
				p.Kind = packet.Transport
				p.Key.SrcPort = uint16(in[2])
				given++
				passed += 1 + len(tr.define(&p, in[0]&3 == 0, now))
				if k, served, ok := tr.find(&packet.Packet{Family: 4, Length: 20, Front: 20, FragID: p.FragID, Offset: 65528}); ok && (served != (in[0]&3 == 0) || k != p.Key) {
					t.Fatalf("a first fragment did not define its datagram: %v %v", k, served)
				}
			case 2:
				p.Offset = 8 + uint16(in[2])*8
				given++
				if _, _, ok := tr.find(&p); ok {
					passed++
				} else {
					tr.park(make([]byte, p.Length), &p, now)
				}
			case 3:
				now = now.Add(time.Duration(in[2]) * 100 * time.Millisecond)
				tr.expire(now)
			}
			checkBooks(t, &tr)
		}
		if waits := tr.parked; passed+waits+int(lost.Load()) != given {
			t.Fatalf("of %d fragments %d passed, %d wait, %d are lost", given, passed, waits, lost.Load())
		}
		tr.expire(now.Add(reassembly + time.Second))
		if tr.known.len()+tr.foreign.len()+tr.waiting.len()+tr.parked+tr.bytes != 0 {
			t.Fatal("something does not expire")
		}
	})
}

func checkBooks(t *testing.T, tr *tracker) {
	t.Helper()
	fragments, bytes := 0, 0
	for e := tr.waiting.order.Front(); e != nil; e = e.Next() {
		q := e.Value.(*agedEntry[parked])
		own := 0
		for _, f := range q.value.list {
			own += len(f.b)
		}
		if own != q.value.bytes {
			t.Fatalf("%d bytes counted, %d there", q.value.bytes, own)
		}
		fragments, bytes = fragments+len(q.value.list), bytes+own
		if tr.known.get(q.id) != nil || tr.foreign.get(q.id) != nil {
			t.Fatal("a fragment waits though its first came")
		}
	}
	if fragments != tr.parked || bytes != tr.bytes || fragments > maxParked || bytes > maxParkedBytes {
		t.Fatalf("%d fragments, %d bytes; counted %d, %d", fragments, bytes, tr.parked, tr.bytes)
	}
	for _, a := range []*aged[tracked]{&tr.known, &tr.foreign} {
		if a.len() != a.order.Len() {
			t.Fatal("map and order differ")
		}
	}
	if tr.known.len() > maxTracked || tr.foreign.len() > maxForeign {
		t.Fatal("too many datagrams are known")
	}
}
