package fastpath

import (
	"unsafe"

	"github.com/caplance/caplance/core"
	"golang.org/x/sys/unix"
)

// Offloader hands one worker's new flows to the kernel, many with one system call.
// Its methods belong to that worker's goroutine. They allocate nothing.
type Offloader struct {
	b      *Balancer
	n      int
	keys   [offloadBatch]balanceFlowKey
	values [offloadBatch]balanceFlow
	value  balanceFlow // of a look-up
	update batchAttr
	look   elemAttr
}

const offloadBatch = 64

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

// Offloader returns an offloader for one worker.
func (b *Balancer) Offloader() *Offloader { return &Offloader{b: b} }

// Add offloads a flow that had some packets already, with the next Flush at
// the latest. False means that it stays in userspace.
func (o *Offloader) Add(k *core.FlowKey, service core.ServiceID, h core.Handle, packets, bytes uint64) bool {
	in := o.b.view.Load()
	vip, ok := in.vips.byAddr[k.Dst]
	if !ok || h.Slot() >= o.b.maps().Targets.MaxEntries() {
		return false
	}
	if o.n == offloadBatch {
		o.Flush()
	}
	t := uint32(o.b.clock.now())
	o.keys[o.n] = flowKey(k, vip)
	o.values[o.n] = balanceFlow{Handle: uint32(h), Service: uint16(service), Created: t, Seen: t, Packets: packets, Bytes: bytes}
	o.n++
	return true
}

// Flush puts what was added into the kernel's table of pending flows, where a
// second packet makes them established.
func (o *Offloader) Flush() {
	if o.n == 0 {
		return
	}
	o.update = batchAttr{
		keys: pointer(&o.keys), values: pointer(&o.values), count: uint32(o.n), fd: uint32(o.b.view.Load().pending.FD()),
	}
	o.b.given.Add(uint64(o.n))
	o.n = 0
	// It is an LRU map: there is always room.
	unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_UPDATE_BATCH, uintptr(unsafe.Pointer(&o.update)), unsafe.Sizeof(o.update))
}

// Find returns the backend of a flow that the kernel has, whether or not it is still
// registered.
func (o *Offloader) Find(k *core.FlowKey) (h core.Handle, ok bool) {
	in := o.b.view.Load()
	vip, ok := in.vips.byAddr[k.Dst]
	if !ok {
		return 0, false
	}
	o.Flush()
	o.keys[0] = flowKey(k, vip)
	for _, fd := range [...]int{in.flows.FD(), in.pending.FD()} {
		o.look = elemAttr{fd: uint32(fd), key: pointer(&o.keys), value: pointer(&o.value)}
		_, _, err := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_LOOKUP_ELEM, uintptr(unsafe.Pointer(&o.look)), unsafe.Sizeof(o.look))
		if err == 0 {
			return core.Handle(o.value.Handle), true
		}
	}
	return 0, false
}

// pointer returns an address as union bpf_attr has it. What it points to is part of
// an Offloader, which lives on the heap and does not move.
func pointer[T any](p *T) uint64 { return uint64(uintptr(unsafe.Pointer(p))) }

func flowKey(k *core.FlowKey, vip uint16) balanceFlowKey {
	return balanceFlowKey{Src: words(k.Src), Sport: network(k.SrcPort), Dport: network(k.DstPort), Vip: vip, Proto: k.Proto}
}
