package datapath

import (
	"bytes"
	"cmp"
	"container/list"
	"slices"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/packet"
)

// datagram identifies the fragments of one IP datagram: by addresses, protocol
// and identification in IPv4 (RFC 791, §3.2), without the protocol in IPv6
// (RFC 8200, §4.5), where later fragments need not name the transport's.
type datagram struct {
	src, dst [16]byte
	proto    uint8
	id       uint32
}

func datagramOf(p *packet.Packet) datagram {
	d := datagram{src: p.Key.Src, dst: p.Key.Dst, id: p.FragID}
	if p.Family == 4 {
		d.proto = p.Key.Proto
	}
	return d
}

// tracker remembers which flow the fragments of a datagram belong to, since
// only the first carries the ports, and keeps those that came before it. Where
// room is short the oldest datagram gives way: its fragments are the likeliest
// to have come already. Datagrams to ports that are no service's have a room of
// their own, so that they cost the others nothing.
type tracker struct {
	known   aged[tracked] // datagrams of services
	foreign aged[tracked] // the host's
	waiting aged[parked]
	parked  int            // fragments in waiting
	bytes   int            // of these
	lost    *atomic.Uint64 // fragments that were parked in vain
}

// tracked is what a first fragment said, and how far its datagram has come.
type tracked struct {
	key  core.FlowKey
	next int // bytes that came without a gap
}

// parked is the fragments of a datagram whose first has not come.
type parked struct {
	list  []fragment
	bytes int
}

type fragment struct {
	b []byte
	p packet.Packet
}

const (
	maxTracked = 4096
	maxForeign = 256
	// maxParked and maxParkedBytes are room for 200 datagrams of 20 fragments
	// each that come in reverse order.
	maxParked      = 4096
	maxParkedBytes = 8 << 20
	// maxDatagram is the most that one datagram's fragments may take: its 64 KiB
	// and a header for each 1 KiB of them.
	maxDatagram = 68 << 10
	// reassembly is how long fragments of a datagram may be apart, far below
	// what a host waits for them (30 s, ip_frag_time).
	reassembly = 5 * time.Second
)

func (t *tracker) init(lost *atomic.Uint64) {
	t.lost = lost
	t.known.init()
	t.foreign.init()
	t.waiting.init()
}

// define notes what a first fragment says of its datagram, whatever an earlier
// one with the same identification has said, and returns those that waited for
// it, in order. The host cannot have them back: for it they are lost.
func (t *tracker) define(p *packet.Packet, served bool, now time.Time) []fragment {
	d := datagramOf(p)
	t.known.remove(d)
	t.foreign.remove(d)
	list := t.release(d)
	into, room := &t.known, maxTracked
	if !served {
		into, room = &t.foreign, maxForeign
		t.lost.Add(uint64(len(list)))
		list = nil
	}
	if into.len() == room {
		into.remove(into.oldest().id)
	}
	k := into.put(d, tracked{key: p.Key}, now.Add(reassembly))
	k.came(p)
	slices.SortStableFunc(list, func(a, b fragment) int { return cmp.Compare(a.p.Offset, b.p.Offset) })
	for i := range list {
		if k.came(&list[i].p) {
			into.remove(d)
		}
	}
	return list
}

// find returns the flow of a later fragment, if its datagram's first has come,
// and whether a service has it.
func (t *tracker) find(p *packet.Packet) (k core.FlowKey, served, ok bool) {
	d := datagramOf(p)
	in := &t.known
	e := in.get(d)
	if e == nil {
		in = &t.foreign
		e = in.get(d)
	}
	if e == nil {
		return k, false, false
	}
	k = e.key
	if e.came(p) { // another that uses the identification comes next
		in.remove(d)
	}
	return k, in == &t.known, true
}

// came notes a fragment and reports whether its datagram is complete: all came
// in order. Of others it is not known, for some may have come twice.
func (k *tracked) came(p *packet.Packet) bool {
	if int(p.Offset) != k.next {
		return false
	}
	k.next += p.Carried()
	return !p.More
}

// park keeps a copy of a fragment until its first comes.
func (t *tracker) park(b []byte, p *packet.Packet, now time.Time) {
	d := datagramOf(p)
	if q := t.waiting.get(d); q != nil && q.bytes+p.Length > maxDatagram {
		t.lost.Add(uint64(len(t.release(d)))) // no datagram is that long
	}
	for t.parked == maxParked || t.bytes+p.Length > maxParkedBytes {
		t.lost.Add(uint64(len(t.release(t.waiting.oldest().id))))
	}
	q := t.waiting.get(d)
	if q == nil {
		q = t.waiting.put(d, parked{}, now.Add(reassembly))
	}
	q.list = append(q.list, fragment{bytes.Clone(b[:p.Length]), *p})
	q.bytes += p.Length
	t.parked++
	t.bytes += p.Length
}

// release takes a datagram's fragments out of waiting.
func (t *tracker) release(d datagram) []fragment {
	q := t.waiting.get(d)
	if q == nil {
		return nil
	}
	t.waiting.remove(d)
	t.parked -= len(q.list)
	t.bytes -= q.bytes
	return q.list
}

// expire forgets what is too old.
func (t *tracker) expire(now time.Time) {
	for _, a := range []*aged[tracked]{&t.known, &t.foreign} {
		for e := a.oldest(); e != nil && now.After(e.until); e = a.oldest() {
			a.remove(e.id)
		}
	}
	for e := t.waiting.oldest(); e != nil && now.After(e.until); e = t.waiting.oldest() {
		t.lost.Add(uint64(len(t.release(e.id))))
	}
}

// aged is a map of datagrams that knows their order.
type aged[V any] struct {
	by    map[datagram]*list.Element
	order list.List // of *agedEntry[V], the oldest first
}

type agedEntry[V any] struct {
	id    datagram
	until time.Time
	value V
}

func (a *aged[V]) init() { a.by = map[datagram]*list.Element{} }

func (a *aged[V]) len() int { return len(a.by) }

// put adds a datagram that is not there.
func (a *aged[V]) put(d datagram, v V, until time.Time) *V {
	e := &agedEntry[V]{d, until, v}
	a.by[d] = a.order.PushBack(e)
	return &e.value
}

func (a *aged[V]) get(d datagram) *V {
	if e := a.by[d]; e != nil {
		return &e.Value.(*agedEntry[V]).value
	}
	return nil
}

func (a *aged[V]) remove(d datagram) {
	if e := a.by[d]; e != nil {
		a.order.Remove(e)
		delete(a.by, d)
	}
}

// oldest returns nil when there is none.
func (a *aged[V]) oldest() *agedEntry[V] {
	if e := a.order.Front(); e != nil {
		return e.Value.(*agedEntry[V])
	}
	return nil
}
