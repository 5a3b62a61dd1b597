package datapath

import (
	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/flow"
	"github.com/caplance/caplance/core/packet"
)

// handOver gives a flow to the kernel: from its second packet on it does not
// come up. The entry that stays here is a memo for packets that were on their
// way; it may be lost. A flow that comes up though it was handed over got lost
// in the kernel, where a flood turns over the flows of one packet.
func (w *Worker) handOver(e *flow.Entry, m *core.Member, p *packet.Packet) {
	if !m.Kernel() || !p.Plain() {
		return
	}
	if _, there := w.findIf(e.Kernel, &e.Key); there || !w.Kernel.Add(&e.Key, e.Service, e.Backend, uint64(e.Packets), e.Bytes) {
		return
	}
	if !e.Kernel {
		e.Kernel = true
		w.handed++
		w.book.handed(e)
	}
}

// findIf asks the kernel for a flow if it was handed over.
func (w *Worker) findIf(handed bool, k *core.FlowKey) (core.Handle, bool) {
	if !handed {
		return 0, false
	}
	return w.Kernel.Find(k)
}

// forgotten says of a flow that is opened once more whether the kernel has
// dropped it since it was handed over: because it closed, and so this is
// another one. What was on its way meanwhile is no sign of that.
func (w *Worker) forgotten(e *flow.Entry) bool { return e.Kernel && w.now-e.Created > onItsWay }

// onItsWay is longer than packets wait to be handled here, ms.
const onItsWay = 200

// withKernel is the index of the backend of a flow that the kernel has, or -1.
// Worth a system call for what comes up of such flows: what the programs leave
// to us, and what may be in the middle of a flow.
func (w *Worker) withKernel(pool *core.Pool, p *packet.Packet, opens bool) int {
	if w.Kernel == nil || opens || p.Plain() && p.Key.Proto != core.ProtoTCP && p.Length < alwaysFits {
		return -1
	}
	w.sought = p.Key
	if h, ok := w.Kernel.Find(&w.sought); ok {
		if i, ok := pool.Find(h); ok {
			return i
		}
	}
	return -1
}

// alwaysFits is a length that no path is too narrow for: IPv6's least MTU, less
// the tunnel.
const alwaysFits = 1280 - 48

// Ended tells the policy of a flow that ended in the kernel. Inside Do.
func (w *Worker) Ended(service uint16, e core.FlowEnd) {
	w.told = e
	w.Schedulers[service].Ended(&w.told)
}
