package datapath

import (
	"net/netip"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/verdict"
)

// foreign handles a packet that is for no service. The ruleset sees to most of them;
// fragments come here, and what was on its way when a service left.
func (w *Worker) foreign(p *packet.Packet) verdict.Verdict {
	if !w.forHost(p) {
		w.Counts.add(Unclaimed)
		return verdict.Drop
	}
	w.Counts.add(Foreign)
	return verdict.Accept
}

// forHost reports whether the machine may have a packet that is for no service, by the
// rules of ruleset.Capture. Those of its own datagrams' answers that come in fragments it
// does not get: which it asked for is known to the ruleset alone.
func (w *Worker) forHost(p *packet.Packet) bool {
	switch p.Key.Proto {
	case protoICMP, protoICMPv6:
		return true
	case core.ProtoTCP:
		if p.Kind == packet.Transport && !p.IsFragment() && !opens(p) {
			return true
		}
	}
	return p.Kind == packet.ICMPError || w.hostAt(p)
}

// hostAt reports whether the machine itself is reached at the packet's destination.
func (w *Worker) hostAt(p *packet.Packet) bool {
	v, ok := w.snap.VIPs.Get(netip.AddrFrom16(p.Key.Dst).Unmap())
	return !ok || v.Host
}

// Protocol numbers (IANA protocol-numbers).
const (
	protoICMP   = 1
	protoICMPv6 = 58
)
