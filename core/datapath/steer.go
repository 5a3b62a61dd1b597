package datapath

import (
	"bytes"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/verdict"
)

// Packets that came to a worker by their addresses alone are steered to the
// worker that owns their flow: ICMP errors and fragments. This is off the fast
// path and may allocate.

// ownerOf returns the worker that owns a flow.
func (w *Worker) ownerOf(k core.FlowKey) *Worker { return w.peers[w.FlowQueue(&k)] }

// owner runs fn in the goroutine of the worker that owns the flow, now if that
// is this one. b is copied when it has to wait.
func (w *Worker) owner(k core.FlowKey, b []byte, fn func(w *Worker, b []byte)) {
	peer := w.ownerOf(k)
	if peer == w {
		fn(w, b)
		return
	}
	w.Counts.add(Steered)
	b = bytes.Clone(b)
	if !peer.Do(func() { fn(peer, b) }) {
		w.Counts.add(SteeredLost)
	}
}

// steerToHolder gives a packet of an unknown flow to the other workers, one
// after the other, for the number of queues has changed and one of them may hold
// the flow. If none does, it comes back and is a new flow. It reports false when
// the packet stays here.
func (w *Worker) steerToHolder(s *core.Service, b []byte, p *packet.Packet, mark uint32) bool {
	if opens(p) {
		return false
	}
	l := &lost{owner: w, peers: w.peers, service: s, b: bytes.Clone(b), p: *p, mark: mark}
	if !l.askNext() {
		return false
	}
	w.Counts.add(Steered)
	return true
}

// lost is a packet on its way to the worker that holds its flow.
type lost struct {
	owner   *Worker
	peers   []*Worker
	asked   int // peers
	service *core.Service
	b       []byte
	p       packet.Packet
	mark    uint32
}

// askNext asks the next worker, and the owner in the end. It reports false when
// that one does not listen.
func (l *lost) askNext() bool {
	for l.asked < len(l.peers) {
		peer := l.peers[l.asked]
		l.asked++
		if peer != nil && peer != l.owner && peer.Do(func() { l.ask(peer) }) {
			return true
		}
	}
	return l.owner.Do(func() { l.owner.forwardNew(l.service, l.b, &l.p, l.p.Key.Hash(l.owner.seed), l.mark) })
}

// ask forwards the packet if the worker holds its flow.
func (l *lost) ask(w *Worker) {
	if e := w.table.Find(&l.p.Key, l.p.Key.Hash(w.seed)); e != nil {
		if d, known := w.lookUp(l.service, &l.p, l.p.Key.Hash(w.seed)); known {
			w.pass(&d, l.b, &l.p)
			return
		}
	}
	if !l.askNext() {
		w.Counts.add(SteeredLost)
	}
}

// atomic forwards an IPv6 packet that has a fragment header and is the whole
// datagram (RFC 6946): to the ruleset it is a fragment.
func (w *Worker) atomic(s *core.Service, b []byte, p *packet.Packet, mark uint32) verdict.Verdict {
	if w.ownerOf(p.Key) == w {
		return w.forward(s, b, p, mark)
	}
	q := *p
	w.owner(p.Key, b, func(w *Worker, b []byte) { w.forward(s, b, &q, mark) })
	return verdict.Stolen
}

// icmpError brings an error about a flow to the flow's backend, who sent the
// packet it complains of.
func (w *Worker) icmpError(b []byte, p *packet.Packet) verdict.Verdict {
	s := w.service(&p.Key)
	if s == nil {
		w.Counts.add(Foreign)
		return verdict.Accept
	}
	if p.TTL <= 1 {
		w.expired(b, p)
		return verdict.Drop
	}
	q := *p
	w.owner(p.Key, b, func(w *Worker, b []byte) {
		if m := w.backendOf(s, &q); m != nil {
			w.Counts.add(ICMPErrors)
			w.send(m, b, &q)
		}
	})
	return verdict.Stolen
}

// backendOf returns the backend of a flow that a packet is about, or nil.
func (w *Worker) backendOf(s *core.Service, p *packet.Packet) *core.Member {
	if e := w.table.Find(&p.Key, p.Key.Hash(w.seed)); e != nil {
		if pool := w.pool(e.Service); pool != nil {
			if i, ok := pool.Find(e.Backend); ok {
				return &pool.Members[i]
			}
		}
	}
	if d, ok := w.lookUpKernel(s, p); ok {
		return d.member()
	}
	pool := w.pool(s.ID)
	if pool == nil {
		return nil
	}
	i, why := w.midFlow(pool, p.Key.Hash(s.Seed))
	if i < 0 {
		w.Counts.add(why)
		return nil
	}
	return &pool.Members[i]
}
