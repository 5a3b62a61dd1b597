package agent

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync/atomic"
)

var sanityPrefix = []byte("SANITY ")

// Counters count since the start; all may be read at any time.
type Counters struct {
	Packets atomic.Uint64 // delivered to the local stack
	Bytes   atomic.Uint64 // of these, without the outer headers
	Stray   atomic.Uint64 // dropped: not from a balancer
	NotVIP  atomic.Uint64 // dropped: inner destination is not a VIP of ours
	Garbage atomic.Uint64 // dropped: neither an IP packet nor a nonce
	Failed  atomic.Uint64 // dropped: the device did not take it
}

// sanity is what a sanity datagram says.
type sanity struct {
	nonce string
	known bool // it came from a balancer's address
}

// peers is who may send and what may be in it; an immutable snapshot.
type peers struct {
	balancers []netip.Addr
	vips      []netip.Addr
	anyNonce  bool // no balancer has named its addresses yet
}

// deliver hands one payload on or counts why not.
func (t *tunnel) deliver(allow *peers, from netip.Addr, b []byte) {
	dst, ok := innerDst(b)
	known := slices.Contains(allow.balancers, from)
	switch {
	case !ok && bytes.HasPrefix(b, sanityPrefix) && (known || allow.anyNonce):
		select {
		case t.nonces <- sanity{string(bytes.TrimSpace(b[len(sanityPrefix):])), known}:
		default:
		}
	case !known:
		t.Stray.Add(1)
	case !ok:
		t.Garbage.Add(1)
	case !slices.Contains(allow.vips, dst):
		t.NotVIP.Add(1)
	default:
		if _, err := t.out.Write(b); err != nil {
			t.Failed.Add(1)
			return
		}
		t.Packets.Add(1)
		t.Bytes.Add(uint64(len(b)))
	}
}

// innerDst is the destination of the IP packet b, if it is one: version and
// length fit. The rest is for the kernel to check.
func innerDst(b []byte) (dst netip.Addr, ok bool) {
	if len(b) < 20 {
		return dst, false
	}
	switch b[0] >> 4 {
	case 4:
		if int(binary.BigEndian.Uint16(b[2:])) <= len(b) {
			return netip.AddrFrom4([4]byte(b[16:20])), true
		}
	case 6:
		if len(b) >= 40 && int(binary.BigEndian.Uint16(b[4:]))+40 <= len(b) {
			return netip.AddrFrom16([16]byte(b[24:40])), true
		}
	}
	return dst, false
}
