package datapath

import (
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/flow"
	"github.com/caplance/caplance/core/packet"
)

// offload gives a flow to the kernel: from its second packet on it does not
// come up. The entry that stays here is a memo for packets that were on their
// way; it may be lost. A flow that comes up though it was offloaded got lost in
// the kernel, where a flood turns over the flows of one packet.
func (w *Worker) offload(d *decision, p *packet.Packet) {
	e := d.entry
	if w.Offloader == nil || e == nil || e.Over || !d.member().Kernel() || !p.Plain() {
		return
	}
	if _, there := w.findIf(e.Kernel(), &e.Key); there || !w.Offloader.Add(&e.Key, e.Service, e.Backend, uint64(e.Packets), e.Bytes) {
		return
	}
	if !e.Kernel() {
		w.table.Offload(e)
		w.memos++
		w.own.Offloaded(e.Backend)
	}
}

// findIf asks the kernel for a flow if it was offloaded.
func (w *Worker) findIf(offloaded bool, k *core.FlowKey) (core.Handle, bool) {
	if !offloaded {
		return 0, false
	}
	return w.Offloader.Find(k)
}

// forgotten reports of a flow that is opened once more whether the kernel has
// dropped it since it was offloaded: because it closed, and so this is another
// one. What was on its way meanwhile is no sign of that.
func (w *Worker) forgotten(e *flow.Entry) bool { return e.Kernel() && w.now-e.Created > onItsWay }

const (
	// onItsWay is longer than packets wait to be handled here, ms.
	onItsWay = 200
	// hung is how long a worker has stood still when the kernel may have placed
	// flows meanwhile whose SYNs came up before. It is less than
	// fastpath.HeartbeatTimeout, as the heartbeat may have been older.
	hung = 1500 * time.Millisecond
)

// noteHang notes whether the worker stood still since the last batch, ns ago.
func (w *Worker) noteHang(since uint64) {
	if since >= uint64(hung) {
		w.hungUntil = w.nowNS + onItsWay*uint64(time.Millisecond)
	}
}

// lookUpKernel returns where a flow goes that the kernel has. Worth a system
// call for what comes up of such flows: what the programs leave to userspace,
// and what may be in the middle of a flow.
func (w *Worker) lookUpKernel(s *core.Service, p *packet.Packet) (d decision, ok bool) {
	if opens(p) && !w.mayHold(s) && w.nowNS >= w.hungUntil || p.Plain() && p.Key.Proto != core.ProtoTCP && p.Length < alwaysFits {
		return d, false
	}
	return w.findInKernel(s, p)
}

// findInKernel returns where a flow goes that the kernel has.
func (w *Worker) findInKernel(s *core.Service, p *packet.Packet) (d decision, ok bool) {
	if w.Offloader == nil {
		return d, false
	}
	w.lookup = p.Key
	h, ok := w.Offloader.Find(&w.lookup)
	if !ok {
		return d, false
	}
	pool := w.pool(s.ID)
	if pool == nil {
		return d, false
	}
	i, ok := pool.Find(h)
	return decision{service: s.ID, pool: pool, index: i}, ok
}

// mayHold reports whether a SYN for a service may have come up because the flow
// with its tuple is at a backend that gets no new ones.
func (w *Worker) mayHold(s *core.Service) bool {
	p := w.snap.Pools.Of(s.ID)
	return w.Truth != nil && p != nil && p.Eligible < len(p.Members)
}

// alwaysFits is a length that no path is too narrow for: IPv6's least MTU, less
// the tunnel.
const alwaysFits = 1280 - 48

// Adopt takes over a flow that the kernel had, inside Do: for when the fast
// path is turned off.
func (w *Worker) Adopt(k *core.FlowKey, id core.ServiceID, h core.Handle, established bool, packets, bytes uint64) {
	pool := w.pool(id)
	if pool == nil {
		return
	}
	if _, ok := pool.Find(h); !ok {
		return
	}
	hash := k.Hash(w.seed)
	e := w.table.Find(k, hash)
	if e != nil && !e.Kernel() {
		return
	}
	if e == nil {
		if e = w.table.Insert(k, hash, w.now); e == nil {
			return
		}
	} else {
		w.memos--
		w.table.Reclaim(e)
	}
	e.Service, e.Backend, e.Packets, e.Bytes = id, h, uint32(packets), bytes
	if established {
		w.table.Touch(e, flow.Segment{Flags: packet.ACK}, w.now)
	}
	w.own.Adopted(h)
}

// Reclaim takes over the flows that were on their way to a fast path when it was
// turned off, after Adopt. Inside Do.
func (w *Worker) Reclaim() {
	w.table.Walk(0, w.table.Cap(), func(e *flow.Entry) {
		if e.Kernel() {
			w.table.Reclaim(e)
			w.memos--
			w.own.Adopted(e.Backend)
		}
	})
}

// OffloadAll gives every flow to the kernel, by put: for when the fast path is
// turned on. Inside Do.
func (w *Worker) OffloadAll(put func(*flow.Entry) bool) {
	w.table.Walk(0, w.table.Cap(), func(e *flow.Entry) {
		pool := w.pool(e.Service)
		if e.Kernel() || e.Over || pool == nil {
			return
		}
		if i, ok := pool.Find(e.Backend); ok && pool.Members[i].Kernel() && put(e) {
			w.table.Offload(e)
			w.memos++
			w.own.Offloaded(e.Backend)
		}
	})
}
