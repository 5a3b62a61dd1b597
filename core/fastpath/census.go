package fastpath

import (
	"errors"
	"fmt"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/cilium/ebpf"
)

// Rule says by what a flow was placed.
type Rule uint8

// The rules, as flow.rule in flows.h.
const (
	ByPolicy   Rule = iota // the daemon asked the policy
	ByTable                // the policy's table, in the kernel
	ByFallback             // the lookup table: the daemon was dead, or its budget spent
)

func (r Rule) String() string { return [...]string{"policy", "table", "fallback"}[r] }

// Flow is one in the kernel's tables.
type Flow struct {
	Key         core.FlowKey
	Service     uint16
	Backend     core.Handle
	Rule        Rule
	Established bool // more than one packet was seen
	Closed      bool // FIN or RST was
	Age, Idle   time.Duration
	Packets     uint64
	Bytes       uint64 // of the client's IP packets
}

// State names how far the flow has come.
func (f *Flow) State() string {
	switch {
	case f.Closed:
		return "closing"
	case f.Established:
		return "established"
	}
	return "pending"
}

// Find is the flow of a key; ok is false when the kernel has none.
func (b *Balancer) Find(k *core.FlowKey) (f Flow, ok bool) {
	vip, ok := b.vips[k.Dst]
	if !ok {
		return f, false
	}
	key := flowKey(k, vip)
	var v balanceFlow
	established := b.objs.Flows.Lookup(&key, &v) == nil
	if !established && b.objs.Pending.Lookup(&key, &v) != nil {
		return f, false
	}
	return b.flow(&key, &v, established, uint32(b.clock.now())), true
}

func (b *Balancer) flow(k *balanceFlowKey, v *balanceFlow, established bool, now uint32) Flow {
	f := Flow{
		Key: core.FlowKey{
			Src: octets(k.Src), SrcPort: network(k.Sport), DstPort: network(k.Dport), Proto: k.Proto,
		},
		Rule: Rule(v.Rule), Established: established, Closed: v.State != 0,
		Age: b.clock.duration(since(now, v.Created)), Idle: b.clock.duration(since(now, v.Seen)),
		Packets: v.Packets, Bytes: v.Bytes,
	}
	f.Service, f.Backend = membership(v.Target, v.Gen)
	if int(f.Service) < len(b.cfg.Services) {
		f.Key.Dst = b.cfg.Services[f.Service].VIP.As16()
	}
	return f
}

// since is the time that has passed, jiffies; the kernel may be a little ahead.
func since(now, then uint32) uint32 {
	if then-now < 1<<16 {
		return 0
	}
	return now - then
}

// Each shows every flow in the kernel's tables until show says false. Flows
// that come or go meanwhile may be missed or shown twice.
func (b *Balancer) Each(show func(*Flow) bool) error {
	return b.walk(func(_ *ebpf.Map, _ *balanceFlowKey, f *Flow) bool { return show(f) })
}

// walkBatch is how many flows one system call shows; more when a hash bucket
// holds more.
const walkBatch = 4096

func (b *Balancer) walk(show func(m *ebpf.Map, k *balanceFlowKey, f *Flow) bool) error {
	for _, m := range []*ebpf.Map{b.objs.Flows, b.objs.Pending} {
		more, err := b.walkMap(m, show)
		if err != nil {
			return fmt.Errorf("fast path: flows: %w", err)
		}
		if !more {
			break
		}
	}
	return nil
}

func (b *Balancer) walkMap(m *ebpf.Map, show func(m *ebpf.Map, k *balanceFlowKey, f *Flow) bool) (more bool, err error) {
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
			f := b.flow(&keys[i], &values[i], m == b.objs.Flows, now)
			if !show(m, &keys[i], &f) {
				return false, nil
			}
		}
		if err != nil { // that was the last batch
			return true, nil
		}
	}
}

// Census is what one look at all flows found.
type Census struct {
	Flows  int
	active []uint32 // by targetKey
}

// Active is the number of open flows of a membership.
func (c *Census) Active(service uint16, h core.Handle) int64 {
	if int(h.Slot()) >= MaxBackends || c.active == nil {
		return 0
	}
	return int64(c.active[targetKey(service, h)])
}

// linger is how long a flow counts as open after its FIN: the other direction
// may go on.
const linger = time.Second

// Take counts the flows, ends those that were silent for too long, or whose
// backend left, and tells of each that ended.
func (b *Balancer) Take(ended func(*Flow)) (*Census, error) {
	c := &Census{active: make([]uint32, MaxBackends*max(len(b.cfg.Services), 1))}
	gens := b.generations()
	var over []balanceFlowKey
	var in *ebpf.Map
	end := func() {
		if len(over) > 0 {
			_, _ = in.BatchDelete(over, nil) // some may be gone already
		}
		over = over[:0]
	}
	err := b.walk(func(m *ebpf.Map, k *balanceFlowKey, f *Flow) bool {
		if m != in || len(over) == walkBatch {
			end()
			in = m
		}
		key := targetKey(f.Service, f.Backend)
		switch {
		case f.Idle > b.patience(f) || gens[key] != generation(f.Backend):
			over = append(over, *k)
			ended(f)
			return true
		case !f.Closed || f.Idle < linger:
			c.active[key]++
		}
		c.Flows++
		return true
	})
	end()
	return c, err
}

// patience is how long a flow may be silent.
func (b *Balancer) patience(f *Flow) time.Duration {
	t := b.cfg.Timeouts
	switch {
	case f.Key.Proto != core.ProtoTCP:
		return t.UDP
	case f.Closed:
		return t.TCPFin
	case f.Established:
		return t.TCP
	}
	return t.TCPSyn
}
