package datapath

import (
	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/flow"
	"github.com/caplance/caplance/core/packet"
)

// forward sends a packet of service s to its flow's backend, asking the policy
// for one if the flow is new.
func (w *Worker) forward(s *core.Service, b []byte, p *packet.Packet, mark uint32) {
	hash := p.Key.Hash(s.Seed)
	pool := w.pools[s.Index]
	syn := p.TCPFlags&(packet.SYN|packet.ACK) == packet.SYN
	e := w.table.Find(&p.Key, hash)
	i, ok := 0, false
	if e != nil {
		if i, ok = pool.Find(e.Backend); !ok || syn && (e.State == flow.Closing || w.forgotten(e)) {
			// The backend left, or the client uses the port anew.
			w.table.Remove(e)
			e = nil
		}
	}
	if e == nil {
		if i = w.withKernel(pool, p, syn); i >= 0 {
			w.book.packet(s.Index, pool.Members[i].Handle, p.Length)
			w.send(&pool.Members[i], hash, b, p)
			return
		}
		if i = w.schedule(s, pool, p, hash, syn, mark); i < 0 {
			return
		}
		if e = w.table.Insert(&p.Key, hash, w.now); e == nil {
			// Without an entry only a pick that repeats itself keeps the flow together.
			if i = int(pool.MidFlow.At(hash)); i == int(core.NoBackend) {
				w.Counts.add(Held)
				return
			}
			w.send(&pool.Members[i], hash, b, p)
			return
		}
		e.Service, e.Backend = s.Index, pool.Members[i].Handle
		w.book.began(e)
	}
	w.table.Touch(e, p.TCPFlags, p.Length, w.now)
	w.book.packet(e.Service, e.Backend, p.Length)
	if w.Kernel != nil {
		w.handOver(e, &pool.Members[i], p)
	}
	w.send(&pool.Members[i], hash, b, p)
}

// schedule is the index of a backend for a flow without an entry, or -1.
func (w *Worker) schedule(s *core.Service, pool *core.Pool, p *packet.Packet, hash uint64, syn bool, mark uint32) int {
	if p.Key.Proto == core.ProtoTCP && !syn {
		return w.midFlow(pool, hash)
	}
	w.rand += 0x9e3779b97f4a7c15
	f := &w.asked
	*f = core.NewFlow{
		Key: p.Key, Hash: hash, Rand: core.Mix(w.rand), Now: w.nowNS,
		Family: p.Family, Service: uint32(s.Index), Mark: mark,
	}
	if syn {
		f.Flags |= core.FlowSYN
	}
	if p.IsFragment() {
		f.Flags |= core.FlowFragment
	}
	i, by := w.Schedulers[s.Index].Pick(f)
	switch by {
	case core.ByReject:
		w.Counts.add(Rejected)
	case core.ByNobody:
		w.Counts.add(NoBackend)
	}
	return i
}

// midFlow is where a TCP flow belongs that is older than its entry: a policy
// could only guess, the lookup table repeats itself.
func (w *Worker) midFlow(pool *core.Pool, hash uint64) int {
	i := pool.MidFlow.At(hash)
	if i != core.NoBackend {
		w.Counts.add(MidFlow)
		return int(i)
	}
	if pool.Eligible == 0 {
		w.Counts.add(NoBackend)
	} else {
		w.Counts.add(Held)
	}
	return -1
}

// send takes a packet to m. One too long for the way there is answered with an
// ICMP error or, where its sender cannot be asked for less, cut.
func (w *Worker) send(m *core.Member, hash uint64, b []byte, p *packet.Packet) {
	if m.State == core.Paused {
		w.Counts.add(PausedDrop)
		return
	}
	if p.Length <= m.MTU {
		w.carry(m, hash, b[:p.Length])
		return
	}
	if p.Kind == packet.ICMPError { // never answered with another (RFC 1122, §3.2.2)
		w.Counts.add(TooBig)
		return
	}
	reassembled := p.Family == 6 && p.Key.Proto != core.ProtoTCP && p.Length > w.LinkMTU
	if p.DF && !reassembled {
		w.tooBig(b[:p.Length], p, m.MTU)
		return
	}
	w.cut(m, hash, b, p)
}

// carry queues a packet that fits, by the member's mode.
func (w *Worker) carry(m *core.Member, hash uint64, b []byte) {
	if m.Mode == core.ModeDirect {
		w.Sender.Direct(m.Addr, b)
		return
	}
	w.Sender.Tunnel(m.Addr, hash, b)
}

// tooBig asks the client for smaller packets.
func (w *Worker) tooBig(b []byte, p *packet.Packet, mtu int) {
	w.Counts.add(TooBig)
	if w.errQuota == 0 {
		return
	}
	w.errQuota--
	if w.Errors.Send(packet.TooBig(w.buffer(packet.MaxTooBig), b, p, mtu)) != nil {
		w.Counts.add(ErrorsUnsent)
	}
}

// cut sends a packet as fragments. The sender keeps what it sends until it is
// flushed, so each gets a piece of a buffer of its own.
func (w *Worker) cut(m *core.Member, hash uint64, b []byte, p *packet.Packet) {
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
		w.carry(m, hash, out)
	}
}

func (w *Worker) buffer(n int) []byte {
	if cap(w.scratch.packet) < n {
		w.scratch.packet = make([]byte, n)
	}
	return w.scratch.packet[:n]
}
