package agent

import (
	"bytes"
	"crypto/subtle"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/core/forward"
	"github.com/caplance/caplance/core/protocol"
)

var sanityPrefix, proofPrefix = []byte("SANITY "), []byte(protocol.ProofPrefix)

// Counters count since the start; all may be read at any time.
type Counters struct {
	Packets atomic.Uint64 // delivered to the local stack
	Bytes   atomic.Uint64 // of these, without the outer headers
	Stray   atomic.Uint64 // dropped: not from a balancer
	NotVIP  atomic.Uint64 // dropped: inner destination is not one of the VIPs
	Garbage atomic.Uint64 // dropped: neither an IP packet nor a nonce
	Failed  atomic.Uint64 // dropped: the device did not take it
	Marked  atomic.Uint64 // dropped: marked as congestion met, and says that it cannot be
}

// arrival is a proof of the data path that has come.
type arrival struct {
	nonce string
	at    time.Time
}

// peers is who may send and what may be in it; an immutable snapshot.
type peers struct {
	balancers []netip.Addr
	vips      []netip.Addr
}

// deliver hands one payload on or counts why not; class is the outer header's DSCP
// and ECN.
func (t *tunnel) deliver(allow *peers, from netip.Addr, class uint8, b []byte) {
	dst, ok := innerDst(b)
	known := slices.Contains(allow.balancers, from)
	switch {
	case !ok && known && bytes.HasPrefix(b, proofPrefix):
		nonce, _, _ := bytes.Cut(b[len(proofPrefix):], []byte(" "))
		select {
		case t.proofs <- arrival{string(nonce), time.Now()}:
		default:
		}
	case !ok && bytes.HasPrefix(b, sanityPrefix):
		t.sanity(b[len(sanityPrefix):])
	case !known:
		t.Stray.Add(1)
	case !ok:
		t.Garbage.Add(1)
	case !slices.Contains(allow.vips, dst):
		t.NotVIP.Add(1)
	case !forward.Fold(b, class):
		t.Marked.Add(1)
	default:
		if _, err := t.out.Write(b); err != nil {
			t.Failed.Add(1)
			return
		}
		t.Packets.Add(1)
		t.Bytes.Add(uint64(len(b)))
	}
}

// sanity hands the nonce of a sanity datagram on if it carries the tag of this
// session's REGISTER: nobody else knows that, whatever address it comes from.
func (t *tunnel) sanity(b []byte) {
	nonce, tag, _ := bytes.Cut(bytes.TrimSpace(b), []byte(" "))
	if want := t.tag.Load(); want == nil || subtle.ConstantTimeCompare(tag, []byte(*want)) == 0 {
		t.Stray.Add(1)
		return
	}
	select {
	case t.nonces <- string(nonce):
	default:
	}
}

// innerDst returns the destination of the IP packet b, if it is one: version and
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
