package datapath

import (
	"bytes"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/flow"
	"github.com/caplance/caplance/core/packet"
)

// Truth is what backends say of their connections. Its methods may be called by
// any goroutine; they do not wait.
type Truth interface {
	// Judge reports whether a TCP flow is over, of a backend that tells of its
	// connections. If in doubt, it asks the backend.
	Judge(f *Signs) (over bool)
	// Doubt asks the backend of a flow about it.
	Doubt(service core.ServiceID, h core.Handle, k *core.FlowKey)
}

// Signs are what is known of a flow's life without asking.
type Signs struct {
	Key     core.FlowKey
	Service core.ServiceID
	Backend core.Handle
	Idle    time.Duration
	Silent  bool // for longer than its timeout
	Closed  bool // FIN or RST was seen
	Ended   bool // its backend said so
	Proven  bool // its backend said that the connection is there
	Drains  bool // its backend is to lose its flows
	Crowded bool // the table fills
}

// Word is what a backend says of a connection.
type Word struct {
	Key     core.FlowKey
	Backend string
	State   WordState
	Ago     time.Duration // since it ended, or since it was asked about
}

// WordState is what a Word says.
type WordState uint8

// The words.
const (
	Unknown WordState = iota // it does not know, or has not answered
	Ended                    // by itself
	Gone                     // when it was asked
	Alive
)

// over judges an entry of the flow table.
func (w *Worker) over(e *flow.Entry, silent bool) bool {
	p := w.snap.Pools.Of(e.Service)
	if p == nil || w.nowNS < w.recheckUntil && w.denied(e) {
		return true
	}
	i, ok := p.Find(e.Backend)
	if !ok {
		return true
	}
	m := &p.Members[i]
	if !m.Tells || w.Truth == nil || e.Key.Proto != core.ProtoTCP || e.State <= flow.Pending && !e.Ended {
		return w.expires(e, silent)
	}
	w.signs = Signs{
		Key: e.Key, Service: e.Service, Backend: e.Backend, Idle: time.Duration(w.now-e.Seen) * time.Millisecond, Silent: silent,
		Closed: e.State == flow.Closing, Ended: e.Ended, Proven: e.Proven, Drains: m.State == core.Draining, Crowded: w.table.Strict,
	}
	return w.expires(e, w.Truth.Judge(&w.signs))
}

// expires reports whether a flow is over, and tells its client if it was but idle.
func (w *Worker) expires(e *flow.Entry, over bool) bool {
	if over && e.State == flow.Established && !e.Ended {
		w.Expired(e.Service, &e.Key, e.Ack)
	}
	return over
}

// Told makes the flow table follow what backends say. Inside Do.
func (w *Worker) Told(words []Word) {
	for i := range words {
		d := &words[i]
		if e := w.table.Find(&d.Key, d.Key.Hash(w.seed)); e != nil && !e.Kernel() && w.isAt(e, d.Backend) {
			w.hear(e, d)
		}
		if h, ok := w.held[d.Key]; ok && d.State != Ended && d.Backend == h.backend {
			delete(w.held, d.Key)
			w.release(&h, d.State == Gone)
		}
	}
}

// askProof asks once about a flow that stays among the pending ones until its
// backend says that it is there: its place is not safe meanwhile.
func (w *Worker) askProof(e *flow.Entry) {
	if w.Truth == nil || e.Asked || e.Key.Proto != core.ProtoTCP {
		return
	}
	e.Asked = true
	w.Truth.Doubt(e.Service, e.Backend, &e.Key)
}

// isAt reports whether a flow is at a backend.
func (w *Worker) isAt(e *flow.Entry, name string) bool {
	p := w.snap.Pools.Of(e.Service)
	if p == nil {
		return false
	}
	i, ok := p.Find(e.Backend)
	return ok && p.Members[i].Name == name
}

// hear takes what a flow's backend says of it. What ended may have been an
// earlier connection with the same tuple.
func (w *Worker) hear(e *flow.Entry, d *Word) {
	age := func(since uint32) time.Duration { return time.Duration(w.now-since) * time.Millisecond }
	switch d.State {
	case Alive:
		w.table.Prove(e, w.now)
	case Ended:
		if e.Reopened || age(e.Created)+core.ClockSlack < d.Ago {
			w.Truth.Doubt(e.Service, e.Backend, &e.Key)
			return
		}
		w.end(e)
	case Gone:
		if d.Ago <= core.Unseen(age(e.Seen), e.Reopened) {
			w.end(e)
		}
	}
}

// end ends a flow; its entry stays for the last packets.
func (w *Worker) end(e *flow.Entry) {
	if !e.Ended {
		e.Ended, e.Seen = true, w.now
	}
	if !e.Over {
		e.Over = true
		w.own.Ended(e.Backend)
	}
}

// held is a SYN on the tuple of a flow whose backend is to get no new connection.
// It waits until the backend has said whether the old one is there.
type held struct {
	service *core.Service
	backend string // the old connection's
	b       []byte
	p       packet.Packet
	mark    uint32
	until   uint32 // ms
}

const (
	// maxHeld SYNs wait for their answer; more are dropped, and the client
	// sends them again.
	maxHeld = 256
	// holdTime is how long one waits, ms: longer than an answer takes, shorter
	// than it takes the client to send another (RFC 6298: 1 s).
	holdTime = 500
)

// hold reports whether a packet has to wait.
func (w *Worker) hold(d *decision, s *core.Service, b []byte, p *packet.Packet, mark uint32) bool {
	m := d.member()
	if !opens(p) || !m.Tells || w.Truth == nil || d.index < d.pool.Eligible || m.State == core.Active {
		return false
	}
	if e := d.entry; e != nil && e.State == flow.Pending && m.State != core.Lost {
		return false // the same SYN once more
	}
	if len(w.held) >= maxHeld {
		w.Counts.add(HeldDrop)
		return true
	}
	if _, ok := w.held[p.Key]; !ok {
		w.held[p.Key] = held{s, m.Name, bytes.Clone(b), *p, mark, w.now + holdTime}
		w.lookup = p.Key
		w.Truth.Doubt(d.service, m.Handle, &w.lookup)
	}
	return true
}

// release sends a SYN on: to a backend that is chosen anew if the old connection is
// gone, else to where that may be.
func (w *Worker) release(h *held, gone bool) {
	hash := h.p.Key.Hash(w.seed)
	if !gone {
		d, known := w.lookUp(h.service, &h.p, hash)
		if !known { // its backend may take new flows again
			d, known = w.findInKernel(h.service, &h.p)
		}
		if known {
			w.pass(&d, h.b, &h.p)
			return
		}
	}
	if e := w.table.Find(&h.p.Key, hash); e != nil {
		w.table.Remove(e)
	}
	if w.Offloader != nil {
		w.Offloader.Delete(&h.p.Key)
	}
	w.forwardNew(h.service, h.b, &h.p, hash, h.mark)
}

// expireHeld drops what has waited for too long. It may be late, of a connection
// that lives: the client of another one sends it again, and the backend is asked
// again.
func (w *Worker) expireHeld() {
	for k, h := range w.held {
		if int32(w.now-h.until) >= 0 {
			delete(w.held, k)
			w.Counts.add(HeldDrop)
		}
	}
}
