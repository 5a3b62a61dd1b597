package datapath

import (
	"bytes"
	"time"

	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/verdict"
)

// fragment forwards a fragment to where its datagram's first one tells. The
// ruleset brings all of a client's to one worker, which need not be the one that
// owns their flow.
func (w *Worker) fragment(b []byte, p *packet.Packet) verdict.Verdict {
	now := w.epoch.Add(time.Duration(w.nowNS))
	if p.Kind == packet.Fragment {
		key, served, ok := w.tracker.find(p)
		if !ok {
			w.tracker.park(b, p, now)
			return verdict.Stolen
		}
		p.Key = key
		return w.fragments(b, p, served, nil)
	}
	served := p.Kind == packet.Transport && w.service(&p.Key) != nil
	return w.fragments(b, p, served, w.tracker.define(p, served, now))
}

// fragments forwards a fragment and those that waited for it, all of the flow
// p.Key.
func (w *Worker) fragments(b []byte, p *packet.Packet, served bool, waited []fragment) verdict.Verdict {
	if !served {
		return w.foreign(p)
	}
	list := append([]fragment{{b, *p}}, waited...)
	peer := w.ownerOf(p.Key)
	if peer == w {
		w.forwardFragments(list)
		return verdict.Stolen
	}
	w.Counts[Steered].Add(uint64(len(list)))
	list[0].b = bytes.Clone(b)
	if !peer.Do(func() { peer.forwardFragments(list) }) {
		w.Counts[FragmentsLost].Add(uint64(len(list)))
	}
	return verdict.Stolen
}

// forwardFragments forwards fragments of one flow, of which the first knows it.
func (w *Worker) forwardFragments(list []fragment) {
	s := w.service(&list[0].p.Key)
	if s == nil { // it has left meanwhile
		w.Counts[FragmentsLost].Add(uint64(len(list)))
		return
	}
	for i := range list {
		list[i].p.Key = list[0].p.Key
		w.forward(s, list[i].b, &list[i].p, 0)
	}
}
