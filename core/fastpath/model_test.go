package fastpath

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/forward"
	"github.com/caplance/caplance/core/packet/packettest"
)

// model is the balancer's programs once more, in Go and on one flow: what becomes of
// a frame. It is held to what bpf/flows.h says of them, and they to it.
type model struct {
	s     *testbed
	xdp   bool // which program
	down  bool // the daemon is
	table bool // the policy's lookup table decides

	flow        *balanceFlow // of the frame, nil: no entry
	established bool         // the entry is in the map that floods do not turn over
}

// outcome is what a program makes of a frame.
type outcome struct {
	verdict uint32
	out     []byte
	vague   bool // it depends on the time: nothing is said
}

// parsed is what the programs see in a packet to a VIP.
type parsed struct {
	key            core.FlowKey
	header, length int
	flags          uint8
	seq, ack       uint32
	offset         int
}

// parse returns nil for what goes up at sight.
func (m *model) parse(in []byte) *parsed {
	var p parsed
	b := in[14:]
	switch kind := binary.BigEndian.Uint16(in[12:]); {
	case kind == 0x0800 && len(b) >= 20:
		p.key.Src, p.key.Dst = netip.AddrFrom4([4]byte(b[12:])).As16(), netip.AddrFrom4([4]byte(b[16:])).As16()
		fragment := binary.BigEndian.Uint16(b[6:])&0x3fff != 0
		if b[0] != 0x45 || fragment || b[8] <= 1 {
			return nil
		}
		p.key.Proto, p.header, p.length = b[9], 20, int(binary.BigEndian.Uint16(b[2:]))
	case kind == 0x86dd && len(b) >= 40:
		p.key.Src, p.key.Dst = [16]byte(b[8:]), [16]byte(b[24:])
		if b[0]>>4 != 6 || slices.Contains([]byte{0, 43, 44, 60}, b[6]) || b[7] <= 1 {
			return nil
		}
		p.key.Proto, p.header, p.length = b[6], 40, int(binary.BigEndian.Uint16(b[4:]))+40
	default:
		return nil
	}
	if _, ok := m.s.gen.vips.byAddr[p.key.Dst]; !ok {
		return nil
	}
	rest := b[p.header:]
	switch {
	case p.key.Proto == core.ProtoTCP && len(rest) >= 20:
		p.seq, p.ack = binary.BigEndian.Uint32(rest[4:]), binary.BigEndian.Uint32(rest[8:])
		p.offset, p.flags = int(rest[12]>>4)*4, rest[13]
	case p.key.Proto == core.ProtoUDP && len(rest) >= 8:
	default:
		return nil
	}
	p.key.SrcPort, p.key.DstPort = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:])
	least := p.header + 8
	if p.key.Proto == core.ProtoTCP {
		least = p.header + 20
	}
	if p.length > len(b) || p.length < least {
		return nil
	}
	return &p
}

func (p *parsed) opens() bool { return p.flags&(syn|ack) == syn }

// run says what becomes of a frame and makes flow what it is afterwards.
func (m *model) run(in []byte) outcome {
	goesUp := outcome{verdict: pass, out: in}
	if m.xdp {
		goesUp.verdict = xdpPass
	}
	if slices.ContainsFunc(in[:6], func(b byte) bool { return b != 0 }) { // not lo's MAC
		return goesUp
	}
	p := m.parse(in)
	if p == nil || m.xdp && m.down {
		return goesUp
	}
	f, insert, vague := m.decide(p)
	if vague {
		return outcome{vague: true}
	}
	if f == nil {
		return goesUp
	}
	b := backend(core.Handle(f.Handle).Slot())
	t := b.target(m.s.link)
	switch tooLong := p.length > t.MTU; {
	case m.xdp && (t.Paused || t.MAC == nil || tooLong):
		return goesUp
	case t.Paused:
		return outcome{verdict: shot, out: in}
	case tooLong:
		track(f, p, insert)
		return goesUp
	}
	f.Packets++
	f.Bytes += uint64(p.length)
	track(f, p, insert)
	if insert {
		m.flow, m.established = f, false
	}
	verdict := uint32(redirect)
	if m.xdp {
		verdict = to(b).byXDP()
	}
	return outcome{verdict: verdict, out: m.s.forwardedUpTo(in, 14+p.length, b, p.key.TunnelPort())}
}

// decide returns the packet's flow, nil when it goes up, and whether it gets an entry.
func (m *model) decide(p *parsed) (f *balanceFlow, insert, vague bool) {
	if m.flow != nil {
		switch handle := core.Handle(m.flow.Handle); {
		case m.target(backend(handle.Slot())) != handle, p.opens() && m.flow.State&1 != 0:
			m.flow = nil
		default:
			m.established = m.established || !p.opens()
			return m.flow, false, false
		}
	}
	svc := m.s.snapshot.Services.Of(netip.AddrFrom16(p.key.Dst).Unmap(), p.key.Proto, p.key.DstPort)
	if svc == nil || p.key.DstPort == 0 {
		return nil, false, false
	}
	if !m.down && !m.table {
		return nil, false, svc.Upcalls > 0 && !m.xdp // by its budget, which renews itself
	}
	if !placeable(svc, &p.key) {
		return nil, false, false
	}
	f = &balanceFlow{Handle: uint32(tunnel4.handle()), Service: uint16(svc.ID), Rule: 1} // by the table
	if m.down {
		f.Rule = 2
	}
	return f, true, false
}

// placeable reports whether the testbed's lookup table sends a flow to tunnel4: those
// that fixtures are about, and what has their hash.
func placeable(svc *core.Service, k *core.FlowKey) bool {
	return slices.ContainsFunc(testFlows(), func(is *core.FlowKey) bool {
		return is.Hash(svc.Seed)%core.LookupSize == k.Hash(svc.Seed)%core.LookupSize
	})
}

// target returns who has a backend's slot.
func (m *model) target(b backend) core.Handle {
	if b == gone {
		return 0
	}
	return b.target(m.s.link).Handle
}

// track follows a TCP flow.
func track(f *balanceFlow, p *parsed, insert bool) {
	if p.key.Proto != core.ProtoTCP {
		return
	}
	const isClosed, half, reopened, window = 1, 2, 4, 1 << 16
	size := uint32(max(p.length-p.header-p.offset, 0))
	switch {
	case p.opens() && !insert:
		f.State |= reopened
		return
	case p.opens():
		size++
	case f.Next != 0 && p.seq-f.Next+window >= 2*window:
		return
	case p.flags&rst != 0:
		f.State = (f.State | isClosed) &^ half
	case p.flags&fin != 0:
		f.State |= isClosed | half
		size++
	case int32(p.seq+size-f.Next) > 0:
		f.State &^= isClosed | half
	}
	if p.flags&ack != 0 {
		f.Ack = p.ack
	}
	if next := p.seq + size; f.Next == 0 || int32(next-f.Next) > 0 {
		f.Next = next
	}
}

// received is what the agent's program makes of a frame, its twin in Go: nil when
// it goes on as it came.
func received(in []byte) []byte {
	if slices.ContainsFunc(in[:6], func(b byte) bool { return b != 0 }) {
		return nil
	}
	b := in[14:]
	var header int
	var from, local netip.Addr
	var marks uint8
	switch kind := binary.BigEndian.Uint16(in[12:]); {
	case kind == 0x0800 && b[0] == 0x45 && b[9] == core.ProtoUDP && binary.BigEndian.Uint16(b[6:])&0x3fff == 0:
		header, marks, from, local = 20, b[1], netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	case kind == 0x86dd && b[0]>>4 == 6 && b[6] == core.ProtoUDP:
		header, marks, from, local = 40, b[0]<<4|b[1]>>4, netip.AddrFrom16([16]byte(b[8:])).Unmap(), netip.AddrFrom16([16]byte(b[24:]))
	default:
		return nil
	}
	datagram := b[header:]
	if len(datagram) < 28 || binary.BigEndian.Uint16(datagram[2:]) != port || from != lb4 && from != lb6 {
		return nil
	}
	inner, proto := datagram[8:], []byte{8, 0}
	var to netip.Addr
	switch {
	case inner[0]>>4 == 4:
		to = netip.AddrFrom4([4]byte(inner[16:]))
	case inner[0]>>4 == 6 && len(inner) >= 40:
		to, proto = netip.AddrFrom16([16]byte(inner[24:])).Unmap(), []byte{0x86, 0xdd}
	default:
		return nil
	}
	if to != vip4.Addr() && to != vip6.Addr() {
		return nil
	}
	if n := int(binary.BigEndian.Uint16(datagram[4:])); binary.BigEndian.Uint16(datagram[6:]) != 0 {
		if n > len(datagram) {
			return nil
		}
		pseudo := slices.Concat(from.AsSlice(), local.AsSlice(), []byte{0, core.ProtoUDP}, datagram[4:6])
		if packettest.Sum(uint32(packettest.Sum(0, pseudo)), datagram[:n]) != 0xffff {
			return nil
		}
	}
	out := slices.Concat(in[:12], proto, inner)
	if !forward.Fold(out[14:], marks) {
		return nil
	}
	return out
}
