package fastpath

import (
	"unsafe"

	"github.com/caplance/caplance/core"
	"golang.org/x/sys/unix"
)

// Placer hands one worker's new flows to the kernel, many with one system call.
// Its methods belong to that worker's goroutine. They allocate nothing.
type Placer struct {
	b      *Balancer
	n      int
	keys   [placeBatch]balanceFlowKey
	values [placeBatch]balanceFlow
	value  balanceFlow // of a look-up
	update batchAttr
	look   elemAttr
}

const placeBatch = 64

// batchAttr and elemAttr are parts of union bpf_attr (linux/bpf.h).
type batchAttr struct {
	inBatch, outBatch uint64
	keys, values      uint64
	count, fd         uint32
	elemFlags, flags  uint64
}

type elemAttr struct {
	fd    uint32
	_     uint32
	key   uint64
	value uint64
	flags uint64
}

// Placer makes a placer for one worker.
func (b *Balancer) Placer() *Placer { return &Placer{b: b} }

// Add hands over a flow that had some packets already, with the next Flush at
// the latest. False means that it stays in userspace.
func (p *Placer) Add(k *core.FlowKey, service uint16, h core.Handle, packets, bytes uint64) bool {
	vip, ok := p.b.vips[k.Dst]
	if !ok || h.Slot() >= MaxBackends {
		return false
	}
	if p.n == placeBatch {
		p.Flush()
	}
	t := uint32(p.b.clock.now())
	p.keys[p.n] = flowKey(k, vip)
	p.values[p.n] = balanceFlow{Target: targetKey(service, h), Gen: generation(h), Created: t, Seen: t, Packets: packets, Bytes: bytes}
	p.n++
	return true
}

// Flush puts what was added into the kernel's table of pending flows, where a
// second packet makes them established.
func (p *Placer) Flush() {
	if p.n == 0 {
		return
	}
	p.update = batchAttr{
		keys: pointer(&p.keys), values: pointer(&p.values), count: uint32(p.n), fd: uint32(p.b.objs.Pending.FD()),
	}
	p.n = 0
	// It is an LRU map: there is always room.
	unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_UPDATE_BATCH, uintptr(unsafe.Pointer(&p.update)), unsafe.Sizeof(p.update))
}

// Find is the backend of a flow that the kernel has, whether or not it is still
// registered.
func (p *Placer) Find(k *core.FlowKey) (h core.Handle, ok bool) {
	vip, ok := p.b.vips[k.Dst]
	if !ok {
		return 0, false
	}
	p.Flush()
	p.keys[0] = flowKey(k, vip)
	for _, fd := range [...]int{p.b.objs.Flows.FD(), p.b.objs.Pending.FD()} {
		p.look = elemAttr{fd: uint32(fd), key: pointer(&p.keys), value: pointer(&p.value)}
		_, _, err := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_LOOKUP_ELEM, uintptr(unsafe.Pointer(&p.look)), unsafe.Sizeof(p.look))
		if err == 0 {
			_, h = membership(p.value.Target, p.value.Gen)
			return h, true
		}
	}
	return 0, false
}

// pointer is an address as union bpf_attr has it. What it points to is part of
// a Placer, which lives on the heap and does not move.
func pointer[T any](p *T) uint64 { return uint64(uintptr(unsafe.Pointer(p))) }

func flowKey(k *core.FlowKey, vip uint16) balanceFlowKey {
	return balanceFlowKey{Src: words(k.Src), Sport: network(k.SrcPort), Dport: network(k.DstPort), Vip: vip, Proto: k.Proto}
}
