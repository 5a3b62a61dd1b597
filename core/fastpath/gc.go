package fastpath

import (
	"errors"
	"fmt"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/cilium/ebpf"
)

// Rule is what placed a flow.
type Rule uint8

// The rules, as flow.rule in flows.h.
const (
	ByPolicy   Rule = iota // the daemon asked the policy
	ByTable                // the policy's table, in the kernel
	ByFallback             // the lookup table: the daemon was down, or its budget spent
)

func (r Rule) String() string { return [...]string{"policy", "table", "fallback"}[r] }

// Flow is one in the kernel's tables.
type Flow struct {
	Key         core.FlowKey
	Service     core.ServiceID
	Backend     core.Handle
	Rule        Rule
	Established bool   // more than one packet was seen
	Closed      bool   // FIN or RST was
	Half        bool   // by FIN: the other direction may go on
	Reopened    bool   // a SYN came while it was there
	Ended       bool   // its backend said so
	Proven      bool   // its backend said that the connection is there
	Expired     bool   // GC: it was silent for too long, and nothing was seen of its end
	Ack         uint32 // what the client acknowledged last, of TCP; 0: not known
	Age, Idle   time.Duration
	Packets     uint64
	Bytes       uint64 // of the client's IP packets
}

// Bits of flow.state in flows.h.
const (
	bitClosed = 1 << iota
	bitHalf
	bitReopened
	bitEnded
	bitProven
)

// bits returns the flow's state as the programs hold it.
func (f *Flow) bits() (b uint8) {
	for i, on := range [...]bool{f.Closed, f.Half, f.Reopened, f.Ended, f.Proven} {
		b |= flag(on) << i
	}
	return b
}

// State names how far the flow has come.
func (f *Flow) State() string {
	switch {
	case f.Ended:
		return "ended"
	case f.Closed:
		return "closing"
	case f.Established:
		return "established"
	}
	return "pending"
}

// Find returns the flow of a key; ok is false when the kernel has none.
func (b *Balancer) Find(k *core.FlowKey) (f Flow, ok bool) {
	in := b.view.Load()
	vip, ok := in.vips.byAddr[k.Dst]
	if !ok {
		return f, false
	}
	key := flowKey(k, vip)
	var v balanceFlow
	established := in.flows.Lookup(&key, &v) == nil
	if !established && in.pending.Lookup(&key, &v) != nil {
		return f, false
	}
	return b.flow(in, &key, &v, established, uint32(b.clock.now())), true
}

func (b *Balancer) flow(in *view, k *balanceFlowKey, v *balanceFlow, established bool, now uint32) Flow {
	return Flow{
		Key: core.FlowKey{
			Src: octets(k.Src), Dst: in.vips.byNumber[k.Vip], SrcPort: network(k.Sport), DstPort: network(k.Dport), Proto: k.Proto,
		},
		Service: core.ServiceID(v.Service), Backend: core.Handle(v.Handle),
		Rule: Rule(v.Rule), Established: established, Closed: v.State&bitClosed != 0, Half: v.State&bitHalf != 0,
		Reopened: v.State&bitReopened != 0, Ended: v.State&bitEnded != 0, Proven: v.State&bitProven != 0,
		Age: b.clock.duration(since(now, v.Created)), Idle: b.clock.duration(since(now, v.Seen)),
		Packets: v.Packets, Bytes: v.Bytes, Ack: v.Ack,
	}
}

// since returns the time that has passed, jiffies; the kernel may be a little
// ahead.
func since(now, then uint32) uint32 {
	if then-now < 1<<16 {
		return 0
	}
	return now - then
}

// Put puts a flow into the kernel's tables. It reports false when the kernel
// cannot send it on, or its table is full.
func (b *Balancer) Put(f *Flow) bool {
	in := b.view.Load()
	vip, ok := in.vips.byAddr[f.Key.Dst]
	if !ok || f.Backend.Slot() >= b.maps().Targets.MaxEntries() {
		return false
	}
	now := uint32(b.clock.now())
	key := flowKey(&f.Key, vip)
	v := balanceFlow{
		Handle: uint32(f.Backend), Service: uint16(f.Service), State: f.bits(), Rule: uint8(f.Rule),
		Created: now - b.clock.jiffies(f.Age), Seen: now - b.clock.jiffies(f.Idle), Packets: f.Packets, Bytes: f.Bytes,
	}
	if f.Established || f.Closed {
		return in.flows.Put(&key, &v) == nil
	}
	return in.pending.Put(&key, &v) == nil
}

// Each shows every flow in the kernel's tables until show returns false. Flows
// that come or go meanwhile may be missed or shown twice.
func (b *Balancer) Each(show func(*Flow) bool) error {
	return b.walk(func(_ *ebpf.Map, _ *balanceFlowKey, f *Flow) bool { return show(f) })
}

// walkBatch is how many flows one system call shows; more when a hash bucket
// holds more.
const walkBatch = 4096

func (b *Balancer) walk(show func(m *ebpf.Map, k *balanceFlowKey, f *Flow) bool) error {
	in := b.view.Load()
	for _, m := range []*ebpf.Map{in.flows, in.pending} {
		more, err := b.walkMap(in, m, show)
		if err != nil {
			return fmt.Errorf("fast path: flows: %w", err)
		}
		if !more {
			break
		}
	}
	return nil
}

func (b *Balancer) walkMap(in *view, m *ebpf.Map, show func(m *ebpf.Map, k *balanceFlowKey, f *Flow) bool) (more bool, err error) {
	var at ebpf.MapBatchCursor
	size := int(min(m.MaxEntries(), walkBatch))
	keys, values := make([]balanceFlowKey, size), make([]balanceFlow, size)
	for {
		n, err := m.BatchLookup(&at, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return false, err
		}
		now := uint32(b.clock.now())
		for i := range n {
			f := b.flow(in, &keys[i], &values[i], m == in.flows, now)
			if !show(m, &keys[i], &f) {
				return false, nil
			}
		}
		if err != nil { // that was the last batch
			return true, nil
		}
	}
}

// finGrace is how long a flow counts as open after its FIN: the other
// direction, which does not pass here, may go on.
const finGrace = time.Second

// Collected is what one garbage collection found.
type Collected struct {
	Flows           int
	Pending         int // of these: one packet was seen
	active, closing map[core.Handle]int64
}

// Active returns the number of open flows of a membership.
func (c *Collected) Active(h core.Handle) int64 { return c.active[h] }

// Closing returns the number of flows of a membership that are not open any more,
// as far as the client's side tells, while the other direction may go on.
func (c *Collected) Closing(h core.Handle) int64 { return c.closing[h] }

// Judge reports whether a flow is over, of a backend that tells of its
// connections; silent says that it was silent for too long.
type Judge func(f *Flow, silent bool) (over bool)

// GC counts the flows, ends those that were silent for too long, whose backend
// left, or whose client is denied, and tells of each that ended. denied may be nil:
// nobody is.
func (b *Balancer) GC(t *core.IdleTimeouts, judge Judge, denied func(*Flow) bool, ended func(*Flow)) (*Collected, error) {
	c := &Collected{active: map[core.Handle]int64{}, closing: map[core.Handle]int64{}}
	handles, tells := b.targetHandles()
	var over []balanceFlowKey
	var in *ebpf.Map
	end := func() {
		if len(over) > 0 {
			_, _ = in.BatchDelete(over, nil) // some may be gone already
		}
		over = over[:0]
	}
	counts, closing := make([]int64, len(handles)), make([]int64, len(handles))
	err := b.walk(func(m *ebpf.Map, k *balanceFlowKey, f *Flow) bool {
		if m != in || len(over) == walkBatch {
			end()
			in = m
		}
		slot := int(f.Backend.Slot())
		left := slot >= len(handles) || handles[slot] != f.Backend || denied != nil && denied(f)
		switch {
		case left || isOver(f, t.Of(f.Service), tells[slot], judge):
			over = append(over, *k)
			f.Expired = !left && f.Established && !f.Closed && !f.Ended
			ended(f)
			return true
		case tells[slot] && !f.Ended || !tells[slot] && (!f.Closed || f.Idle < finGrace):
			counts[slot]++
		case f.Half && !f.Ended:
			closing[slot]++
		}
		c.Flows++
		if !f.Established {
			c.Pending++
		}
		return true
	})
	end()
	for slot, n := range counts {
		if n > 0 {
			c.active[handles[slot]] = n
		}
		if n := closing[slot]; n > 0 {
			c.closing[handles[slot]] = n
		}
	}
	return c, err
}

// isOver reports whether a flow is over. Of a backend that tells of its connections
// what is silent may yet live.
func isOver(f *Flow, t *core.Timeouts, tells bool, judge Judge) bool {
	silent := f.Idle > idleTimeout(f, t)
	if tells && f.Key.Proto == core.ProtoTCP && (f.Established || f.Ended || f.Packets > 1) {
		return judge(f, silent)
	}
	return silent
}

// idleTimeout returns how long a flow may be silent.
func idleTimeout(f *Flow, t *core.Timeouts) time.Duration {
	switch {
	case f.Key.Proto != core.ProtoTCP:
		return t.UDP
	case f.Half:
		return t.TCPHalfClosed
	case f.Closed:
		return t.TCPFin
	case f.Established:
		return t.TCP
	}
	return t.TCPSyn
}
