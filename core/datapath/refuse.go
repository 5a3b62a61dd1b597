package datapath

import (
	"net/netip"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/verdict"
)

// refuseLeft handles a packet of a new flow for a service that is leaving: the machine
// refuses it or, where it is not reached itself, this worker in its name.
func (w *Worker) refuseLeft(b []byte, p *packet.Packet) verdict.Verdict {
	if w.forHost(p) {
		w.Counts.add(Foreign)
		return verdict.Accept
	}
	w.Counts.add(Unclaimed)
	if w.refusable(p) {
		w.sendRefusal(b, p)
	}
	return verdict.Drop
}

// refuse tells the sender of a packet that nobody is there, unless a backend may
// be back any moment, or the service says nothing. pool may be nil.
func (w *Worker) refuse(s *core.Service, pool *core.Pool, b []byte, p *packet.Packet) {
	if s.Unserved != core.ResetUnserved || pool == nil || !w.snap.Complete || !w.snap.Settled && !pool.Served {
		return
	}
	if pool.Deserted() && w.refusable(p) {
		w.sendRefusal(b, p)
	}
}

// refusable reports whether a packet's sender can be told that nobody is there.
func (w *Worker) refusable(p *packet.Packet) bool {
	return *w.quota(p) > 0 && netip.AddrFrom16(p.Key.Src).Unmap().IsGlobalUnicast()
}

// quota returns how many answers to packets of this kind are left until the next Tick.
func (w *Worker) quota(p *packet.Packet) *int {
	if p.Key.Proto == core.ProtoTCP {
		return &w.rstQuota
	}
	return &w.errQuota
}

func (w *Worker) sendRefusal(b []byte, p *packet.Packet) {
	answer := w.refusal(b, p)
	if answer == nil {
		return
	}
	*w.quota(p)--
	w.Counts.add(Refused)
	if w.Errors.Send(answer) != nil {
		w.Counts.add(ErrorsUnsent)
	}
}

// Expired tells the client of an idle flow that it is forgotten, if its service
// wants that. Inside Do.
func (w *Worker) Expired(id core.ServiceID, k *core.FlowKey, ack uint32) {
	if k.Proto != core.ProtoTCP || ack == 0 || int(id) >= len(w.views) || w.rstQuota == 0 {
		return
	}
	if s := w.views[id].service; s == nil || s.Expired != core.ResetExpired {
		return
	}
	w.rstQuota--
	w.Counts.add(ExpiredReset)
	if w.Errors.Send(packet.ResetOf(w.buffer(packet.MaxError), k, ack)) != nil {
		w.Counts.add(ErrorsUnsent)
	}
}

// refusal returns the packet that refuses another one, nil if there is none.
func (w *Worker) refusal(b []byte, p *packet.Packet) []byte {
	if p.Key.Proto == core.ProtoTCP {
		return packet.Reset(w.buffer(packet.MaxError), b[:p.Length], p)
	}
	if p.Kind != packet.Transport {
		return nil
	}
	return packet.PortUnreachable(w.buffer(packet.MaxError), b[:p.Length], p)
}
