package datapath

import (
	"bytes"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/verdict"
)

// Packets that came to a worker by their addresses alone are handed to the
// worker that owns their flow: ICMP errors and fragments. This is off the fast
// path and may allocate.

// owner runs fn in the goroutine of the worker that owns the flow, now if that
// is this one. b is copied when it has to wait.
func (w *Worker) owner(k core.FlowKey, b []byte, fn func(w *Worker, b []byte)) {
	peer := w.peers[w.FlowQueue(&k)]
	if peer == w {
		fn(w, b)
		return
	}
	w.Counts.add(Handed)
	b = bytes.Clone(b)
	if !peer.Do(func() { fn(peer, b) }) {
		w.Counts.add(HandedLost)
	}
}

// icmpError brings an error about a flow to the flow's backend, who sent the
// packet it complains of.
func (w *Worker) icmpError(b []byte, p *packet.Packet) verdict.Verdict {
	s := w.service(&p.Key)
	if s == nil {
		w.Counts.add(Foreign)
		return verdict.Accept
	}
	q := *p
	w.owner(p.Key, b, func(w *Worker, b []byte) {
		hash := q.Key.Hash(s.Seed)
		pool := w.pools[s.Index]
		i, ok := -1, false
		if e := w.table.Find(&q.Key, hash); e != nil {
			i, ok = pool.Find(e.Backend)
		}
		if !ok {
			if i = w.withKernel(pool, &q, false); i < 0 {
				i = w.midFlow(pool, hash)
			}
			if i < 0 {
				return
			}
		}
		w.Counts.add(ICMPErrors)
		w.send(&pool.Members[i], hash, b, &q)
	})
	return verdict.Drop
}

// datagram identifies the fragments of one IP datagram (RFC 791, §3.2).
type datagram struct {
	src, dst [16]byte
	proto    uint8
	id       uint32
}

// tracker remembers which flow the fragments of a datagram belong to, since
// only the first carries the ports, and keeps those that came before it.
type tracker struct {
	known   map[datagram]tracked
	waiting map[datagram][]waiting
	parked  int // fragments in waiting
}

type tracked struct {
	key     core.FlowKey
	service *core.Service // nil: not ours, the host gets it
	until   time.Time
}

type waiting struct {
	b     []byte
	p     packet.Packet
	until time.Time
}

const (
	maxTracked = 4096
	maxParked  = 256
	// reassembly is how long fragments of a datagram may be apart, far below
	// what a host waits for them (30 s, ip_frag_time).
	reassembly = 5 * time.Second
)

func (t *tracker) init() {
	t.known, t.waiting = map[datagram]tracked{}, map[datagram][]waiting{}
}

// expire forgets what is too old.
func (t *tracker) expire(now time.Time) {
	for d, k := range t.known {
		if now.After(k.until) {
			delete(t.known, d)
		}
	}
	for d, list := range t.waiting {
		if now.After(list[0].until) {
			t.parked -= len(list)
			delete(t.waiting, d)
		}
	}
}

// fragment forwards a fragment to where its datagram's first one tells.
func (w *Worker) fragment(b []byte, p *packet.Packet) verdict.Verdict {
	t := &w.tracker
	d := datagram{p.Key.Src, p.Key.Dst, p.Key.Proto, p.FragID}
	now := w.epoch.Add(time.Duration(w.nowNS))
	k, ok := t.known[d]
	if !ok && p.Kind == packet.Fragment {
		if t.parked < maxParked {
			t.waiting[d] = append(t.waiting[d], waiting{bytes.Clone(b), *p, now.Add(reassembly)})
			t.parked++
		} else {
			w.Counts.add(FragmentsLost)
		}
		return verdict.Drop
	}
	if !ok {
		k = tracked{p.Key, w.service(&p.Key), now.Add(reassembly)}
		if len(t.known) < maxTracked {
			t.known[d] = k
		}
	}
	if k.service == nil {
		w.Counts.add(Foreign)
		return verdict.Accept
	}
	w.toOwner(k, b, *p)
	for _, f := range t.waiting[d] {
		w.toOwner(k, f.b, f.p)
		t.parked--
	}
	delete(t.waiting, d)
	return verdict.Drop
}

func (w *Worker) toOwner(k tracked, b []byte, p packet.Packet) {
	p.Key = k.key
	w.owner(p.Key, b, func(w *Worker, b []byte) { w.forward(k.service, b, &p, 0) })
}
