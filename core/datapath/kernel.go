package datapath

import (
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/flow"
	"github.com/caplance/caplance/core/packet"
)

// handOver gives a flow to the kernel once it is established, so that a flood
// of first packets does not fill the kernel's table, and takes it back when it
// closes: its last packets are few, and the state is kept here.
func (w *Worker) handOver(e *flow.Entry, m *core.Member) {
	switch {
	case e.State == flow.Established && !e.Kernel && m.KernelDecap:
		e.Kernel = w.Kernel.Add(&e.Key, e.Service, e.Backend)
	case e.State == flow.Closing:
		w.reclaim(e)
	}
}

// reclaim takes a flow back from the kernel, with what it did there.
func (w *Worker) reclaim(e *flow.Entry) {
	if !e.Kernel {
		return
	}
	if _, packets, bytes, ok := w.Kernel.Look(&e.Key); ok {
		e.Packets += uint32(packets)
		e.Bytes += bytes
	}
	w.Kernel.Remove(&e.Key)
	e.Kernel = false
}

// alive is asked about a flow that nothing came up of for long: the kernel may
// know better.
func (w *Worker) alive(e *flow.Entry) bool {
	if !e.Kernel {
		return false
	}
	idle, _, _, ok := w.Kernel.Look(&e.Key)
	if ok {
		e.Seen = w.now - uint32(idle/time.Millisecond)
	}
	return ok
}

// KernelPart is what the kernel did for a flow, to be added to what its entry
// says, and its silence there; inside Do.
func (w *Worker) KernelPart(e *flow.Entry) (idle time.Duration, packets, bytes uint64, ok bool) {
	if !e.Kernel {
		return 0, 0, 0, false
	}
	return w.Kernel.Look(&e.Key)
}

// Adopt makes an entry for a flow that a predecessor left in the kernel, or
// takes it out where its backend has not come back. Inside Do.
func (w *Worker) Adopt(k *core.FlowKey, service uint16, h core.Handle, idle time.Duration) {
	if !w.fresh {
		w.beginBatch()
	}
	hash := k.Hash(w.Services[service].Seed)
	if w.table.Find(k, hash) != nil {
		return
	}
	var e *flow.Entry
	if _, ok := w.pools[service].Find(h); ok {
		e = w.table.Insert(k, hash, w.now)
	}
	if e == nil {
		w.Kernel.Remove(k)
		return
	}
	e.Service, e.Backend, e.Kernel = service, h, true
	w.book.began(e)
	for range 2 { // a second packet establishes a flow of any protocol
		w.table.Touch(e, packet.ACK, 0, w.now)
	}
	e.Packets = 0
	e.Seen = w.now - uint32(idle/time.Millisecond)
}
