package liveness

import (
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/datapath"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/protocol"
)

// Told implements registry.Connections.
func (t *Tracker) Told(backend string, kind protocol.FrameKind, reports []protocol.Report) {
	switch kind {
	case protocol.LostFrame:
		t.mu.Lock()
		t.since[backend] = time.Now()
		t.missing.Store(true)
		t.mu.Unlock()
		return
	case protocol.CountFrame:
		t.counted(backend, reports)
		return
	case protocol.EndedFrame, protocol.AnswerFrame:
	default:
		return
	}
	words := make([]datapath.Word, 0, len(reports))
	if kind == protocol.EndedFrame {
		t.ended.Add(uint64(len(reports)))
	}
	for i := range reports {
		if r := &reports[i]; kind == protocol.EndedFrame && r.Key.SrcPort == 0 {
			t.noteReset(backend, &r.Key, time.Duration(r.Value)*time.Millisecond)
			continue
		}
		if w, ok := t.word(backend, kind, &reports[i]); ok {
			words = append(words, w)
		}
	}
	t.follow(words)
}

// word returns what a report says; ok is false for an answer to no question.
func (t *Tracker) word(backend string, kind protocol.FrameKind, r *protocol.Report) (w datapath.Word, ok bool) {
	w = datapath.Word{Key: r.Key, Backend: backend}
	if kind == protocol.EndedFrame {
		w.State, w.Ago = datapath.Ended, time.Duration(r.Value)*time.Millisecond
		return w, true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	q, ok := t.asked[r.Key]
	if !ok || q.name != backend {
		return w, false
	}
	w.Ago = time.Since(q.at)
	switch protocol.ConnState(r.Value) {
	case protocol.ConnAlive, protocol.ConnOpening:
		w.State = datapath.Alive
		t.alive.Add(1)
	case protocol.ConnGone:
		w.State = datapath.Gone
		t.gone.Add(1)
	default:
		q.unknown = true
		t.unknown.Add(1)
		t.asked[r.Key] = q
		return w, true
	}
	delete(t.asked, r.Key)
	return w, true
}

// follow has the flow tables follow what was said.
func (t *Tracker) follow(words []datapath.Word) {
	release := t.cfg.Fast.Hold()
	defer release()
	kernel := t.cfg.Fast.Kernel()
	rest := words[:0]
	for i := range words {
		w := &words[i]
		if kernel == nil || !t.inKernel(kernel, w) || w.State != datapath.Ended {
			rest = append(rest, *w) // a SYN may wait there for the answer
		}
	}
	if len(rest) > 0 {
		t.cfg.Tell(rest)
	}
}

// inKernel makes the kernel's flow follow and reports whether it has one of that
// backend.
func (t *Tracker) inKernel(b *fastpath.Balancer, w *datapath.Word) bool {
	at := func(service core.ServiceID, h core.Handle) bool {
		m := t.member(service, h)
		return m != nil && m.Name == w.Backend
	}
	switch w.State {
	case datapath.Alive:
		return b.Alive(&w.Key, at)
	case datapath.Gone:
		return b.Gone(&w.Key, at, w.Ago)
	case datapath.Ended:
		return b.End(&w.Key, at, w.Ago, func(service core.ServiceID, h core.Handle) { t.doubt(service, h, &w.Key) })
	}
	return false
}

// SignsOf returns what is known of a flow of the kernel.
func (t *Tracker) SignsOf(f *fastpath.Flow, silent, crowded bool) *datapath.Signs {
	m := t.member(f.Service, f.Backend)
	return &datapath.Signs{
		Key: f.Key, Service: f.Service, Backend: f.Backend, Idle: f.Idle, Silent: silent, Closed: f.Closed, Ended: f.Ended,
		Proven: f.Proven, Drains: m != nil && m.State == core.Draining, Crowded: crowded,
	}
}
