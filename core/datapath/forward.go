package datapath

import (
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/flow"
	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/verdict"
)

// A packet's way: its flow is looked up, a new one is placed; then it is
// counted, offloaded and sent. Each step has one place.

// decision is where a packet goes.
type decision struct {
	service core.ServiceID
	pool    *core.Pool
	index   int         // in pool.Members
	entry   *flow.Entry // nil: the flow has none here
}

func (d *decision) member() *core.Member { return &d.pool.Members[d.index] }

// refreshAfter returns how old the counts may be that a policy picks by, ms.
func refreshAfter(pool *core.Pool) uint32 {
	return uint32(core.RefreshAfter(len(pool.Members)) / time.Millisecond)
}

// forward sends a packet of service s to its flow's backend, asking the policy
// for one if the flow is new.
func (w *Worker) forward(s *core.Service, b []byte, p *packet.Packet, mark uint32) verdict.Verdict {
	if p.TTL <= 1 {
		w.expired(b, p)
		return verdict.Drop
	}
	hash := p.Key.Hash(w.seed)
	if s.Alone(p.Key.Proto) {
		return w.forwardNew(s, b, p, hash, mark)
	}
	d, known := w.lookUp(s, p, hash)
	if known && w.hold(&d, s, b, p, mark) {
		return verdict.Stolen
	}
	if !known {
		if w.Moving != nil && w.Moving() && w.steerToHolder(s, b, p, mark) {
			return verdict.Stolen
		}
		return w.forwardNew(s, b, p, hash, mark)
	}
	w.pass(&d, b, p)
	return verdict.Stolen
}

// forwardNew sends the first packet of a flow that nobody knows, or a datagram that
// is scheduled by itself.
func (w *Worker) forwardNew(s *core.Service, b []byte, p *packet.Packet, hash uint64, mark uint32) verdict.Verdict {
	if s.Leaving { // nobody is there any more
		return w.refuseLeft(b, p)
	}
	if !w.admit(s, p) {
		return verdict.Drop
	}
	d, why := w.place(s, p, hash, mark)
	if d.pool == nil || d.index < 0 {
		w.Counts.add(why)
		if why == NoBackend {
			w.refuse(s, d.pool, b, p)
		}
		return verdict.Drop
	}
	w.pass(&d, b, p)
	return verdict.Stolen
}

// pass counts, offloads and sends a packet.
func (w *Worker) pass(d *decision, b []byte, p *packet.Packet) {
	w.count(d, p)
	w.offload(d, p)
	w.send(d.member(), b, p)
}

// opens reports whether a packet begins a TCP connection.
func opens(p *packet.Packet) bool { return p.TCPFlags&(packet.SYN|packet.ACK) == packet.SYN }

// lookUp returns where the packet's flow goes: by its entry here, which may be
// that of another service that had the port before, or by the kernel's.
func (w *Worker) lookUp(s *core.Service, p *packet.Packet, hash uint64) (d decision, ok bool) {
	if e := w.table.Find(&p.Key, hash); e != nil {
		if pool := w.pool(e.Service); pool != nil {
			i, ok := pool.Find(e.Backend)
			if ok && !(opens(p) && w.another(e, &pool.Members[i])) {
				return decision{e.Service, pool, i, e}, true
			}
		}
		w.table.Remove(e) // the backend left, or the client uses the port anew
	}
	return w.lookUpKernel(s, p)
}

// another reports whether a SYN on the tuple of a flow begins another connection.
// A backend that tells of its connections sorts that out itself (RFC 5961).
func (w *Worker) another(e *flow.Entry, m *core.Member) bool {
	switch {
	case w.forgotten(e):
		_, there := w.findIf(m.Tells, &e.Key)
		return !there
	case m.Tells:
		return e.Ended
	}
	return e.State == flow.Closing
}

// place chooses a backend for a flow that is not known and makes its entry. In
// a full table only a pick that repeats itself keeps the flow together. Without
// a pool, or an index in it, why says what the packet is counted as.
func (w *Worker) place(s *core.Service, p *packet.Packet, hash uint64, mark uint32) (d decision, why Count) {
	pool := w.pool(s.ID)
	if pool == nil {
		return d, NoBackend
	}
	d = decision{service: s.ID, pool: pool}
	if d.index, why = w.schedule(s, pool, p, mark); d.index < 0 || s.Alone(p.Key.Proto) {
		return d, why
	}
	if d.entry = w.table.Insert(&p.Key, hash, w.now); d.entry == nil {
		d.index = pool.Repeat(p.Key.Hash(s.Seed))
		return d, Held
	}
	d.entry.Service, d.entry.Backend, d.entry.Tells = s.ID, d.member().Handle, d.member().Tells
	w.own.Began(d.entry.Backend)
	return d, why
}

// schedule returns the index of a backend for a flow without an entry, or -1 and
// why there is none.
func (w *Worker) schedule(s *core.Service, pool *core.Pool, p *packet.Packet, mark uint32) (index int, why Count) {
	hash := p.Key.Hash(s.Seed)
	mid := p.Key.Proto == core.ProtoTCP && !opens(p)
	if mid {
		return w.midFlow(pool, hash)
	}
	if s.Alone(p.Key.Proto) {
		if p.IsFragment() { // the others of its datagram must follow
			return pool.Fallback(core.Mix(hash ^ uint64(p.FragID))), NoBackend
		}
		w.rand += 0x9e3779b97f4a7c15
		hash = core.Mix(hash ^ w.rand) // a flow of its own
	}
	v := &w.views[s.ID]
	if v.scheduler == nil {
		return pool.Fallback(hash), NoBackend
	}
	if w.now-v.refreshed >= refreshAfter(pool) {
		w.refresh(v)
	}
	w.rand += 0x9e3779b97f4a7c15
	f := &w.pickArg
	*f = core.NewFlow{
		Key: p.Key, Hash: hash, Rand: core.Mix(w.rand), Now: w.nowNS,
		Family: p.Family, Service: uint32(s.ID), Mark: mark,
	}
	if opens(p) {
		f.Flags |= core.FlowSYN
	}
	if p.IsFragment() {
		f.Flags |= core.FlowFragment
	}
	index, by := w.pick(v, f)
	if by == core.ByReject {
		return index, Rejected
	}
	return index, NoBackend
}

// pickSample is of how many picks one is timed: to read the clock twice would cost each
// of them as much as a native pick.
const pickSample = 64

// pick asks the scheduler, and times it now and then.
func (w *Worker) pick(v *view, f *core.NewFlow) (index int, by core.Decision) {
	if w.picks++; w.picks%pickSample != 0 {
		return v.scheduler.Pick(f)
	}
	begin := time.Now()
	index, by = v.scheduler.Pick(f)
	v.counts.Picks.Observe(time.Since(begin))
	return index, by
}

// midFlow returns where a TCP flow belongs that is older than its entry: a
// policy could only guess, the lookup table repeats itself. It is -1, with the
// reason, where nobody has it.
func (w *Worker) midFlow(pool *core.Pool, hash uint64) (index int, why Count) {
	if i := pool.Repeat(hash); i >= 0 {
		w.Counts.add(MidFlow)
		return i, MidFlow
	}
	if pool.Eligible == 0 {
		return -1, NoBackend
	}
	return -1, Held
}

// count accounts a packet to its flow and its backend.
func (w *Worker) count(d *decision, p *packet.Packet) {
	if e := d.entry; e != nil {
		was := halfClosed(e)
		w.table.Touch(e, flow.Segment{Flags: p.TCPFlags, Seq: p.Seq, Ack: p.Ack, Payload: p.Payload, Size: p.Length}, w.now)
		switch {
		case e.Kernel():
		case !d.member().Tells:
			w.countEnd(e, was)
		case w.table.Strict && e.State == flow.Pending && !opens(p):
			w.askProof(e)
		}
	}
	w.own.Packet(d.member().Handle, p.Length)
}

// countEnd counts a flow that closes, by what is seen of its client, and one that
// goes on after all. Its entry stays for the last packets, and for what its
// backend has yet to send.
func (w *Worker) countEnd(e *flow.Entry, wasHalf bool) {
	if half := halfClosed(e); half != wasHalf {
		by := int64(-1)
		if half {
			by = 1
		}
		w.own.Closing(e.Backend, by)
	}
	closes := e.State == flow.Closing
	switch {
	case closes == e.Over:
		return
	case closes:
		w.own.Ended(e.Backend)
	default:
		w.own.Adopted(e.Backend)
	}
	e.Over = closes
}

// halfClosed reports whether the other direction of a flow may go on.
func halfClosed(e *flow.Entry) bool { return e.State == flow.Closing && e.Half }

// send takes a packet to m, as a router does: with one TTL less. One too long for
// the way there is answered with an ICMP error or, where its sender cannot be
// asked for less, cut.
func (w *Worker) send(m *core.Member, b []byte, p *packet.Packet) {
	if m.State == core.Paused {
		w.Counts.add(PausedDrop)
		return
	}
	if p.Length <= m.MTU {
		packet.Hop(b)
		w.carry(m, p.Key.TunnelPort(), b[:p.Length])
		return
	}
	if p.Kind == packet.ICMPError { // never answered with another (RFC 1122, §3.2.2)
		w.Counts.add(TooBig)
		return
	}
	reassembled := p.Family == 6 && p.Key.Proto != core.ProtoTCP && p.Length > w.snap.Links.MTU
	if p.DF && !reassembled && p.Length > packet.Least(p.Family) {
		w.tooBig(b[:p.Length], p, m.MTU)
		return
	}
	packet.Hop(b)
	w.cut(m, b, p)
}

// carry queues a packet that fits, by the member's mode.
func (w *Worker) carry(m *core.Member, port uint16, b []byte) {
	if m.Mode == core.ModeDirect {
		w.Sender.Direct(m.Addr, b)
		return
	}
	w.Sender.Tunnel(m.Addr, port, m.FoldsECN, b)
}

// tooBig asks the client for smaller packets.
func (w *Worker) tooBig(b []byte, p *packet.Packet, mtu int) {
	w.Counts.add(TooBig)
	if w.mayComplain() {
		w.complain(packet.TooBig(w.buffer(packet.MaxError), b, p, mtu))
	}
}

// expired tells the client that its packet may go no further. Later fragments
// and ICMP errors are not answered (RFC 1122, §3.2.2).
func (w *Worker) expired(b []byte, p *packet.Packet) {
	w.Counts.add(TTLExpired)
	if p.Offset == 0 && p.Kind == packet.Transport && w.mayComplain() {
		w.complain(packet.TimeExceeded(w.buffer(packet.MaxError), b[:p.Length], p))
	}
}

// mayComplain takes one ICMP error from those that are left.
func (w *Worker) mayComplain() bool {
	if w.errQuota == 0 {
		return false
	}
	w.errQuota--
	return true
}

func (w *Worker) complain(icmp []byte) {
	if w.Errors.Send(icmp) != nil {
		w.Counts.add(ErrorsUnsent)
	}
}

// cut sends a packet as fragments. The sender keeps what it sends until it is
// flushed, so each gets a buffer of its own.
func (w *Worker) cut(m *core.Member, b []byte, p *packet.Packet) {
	var f packet.Fragmenter
	w.rand += 0x9e3779b97f4a7c15
	if !f.Start(b, p, m.MTU, uint32(core.Mix(w.rand))) {
		w.Counts.add(Malformed)
		return
	}
	w.Counts.add(Fragmented)
	for {
		out := f.Next(make([]byte, m.MTU))
		if out == nil {
			return
		}
		w.carry(m, p.Key.TunnelPort(), out)
	}
}

func (w *Worker) buffer(n int) []byte {
	if cap(w.scratch.packet) < n {
		w.scratch.packet = make([]byte, n)
	}
	return w.scratch.packet[:n]
}
