package fastpath

import (
	"errors"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/cilium/ebpf"
)

// What backends say of their connections, in the kernel's tables. An entry is read
// and written back whole: what the programs count of it meanwhile is not counted.

// At reports whether a flow of a service is one of the backend that speaks.
type At func(service core.ServiceID, h core.Handle) bool

// Alive notes that the connection of a flow is there, which counts as a packet: it
// is proven and established, and what was seen of its end did not happen. It
// reports whether the kernel has the flow.
func (b *Balancer) Alive(k *core.FlowKey, at At) bool {
	return b.change(k, at, func(in *view, key *balanceFlowKey, v *balanceFlow, established bool) (put bool) {
		v.State = v.State&^(bitClosed|bitHalf|bitReopened|bitEnded) | bitProven
		v.Seen = uint32(b.clock.now())
		if established {
			return true
		}
		if in.flows.Update(key, v, ebpf.UpdateNoExist) == nil {
			_ = in.pending.Delete(key)
		}
		return false
	})
}

// End ends a flow whose connection is gone since some time: its entry stays until it
// was silent for a moment. It reports whether the kernel has the flow; doubt, which
// is called if the entry may be of a later connection with the same tuple, gets
// its membership.
func (b *Balancer) End(k *core.FlowKey, at At, ago time.Duration, doubt func(core.ServiceID, core.Handle)) bool {
	return b.change(k, at, func(_ *view, _ *balanceFlowKey, v *balanceFlow, _ bool) (put bool) {
		now := uint32(b.clock.now())
		if v.State&bitReopened != 0 || b.clock.duration(since(now, v.Created))+core.ClockSlack < ago {
			doubt(core.ServiceID(v.Service), core.Handle(v.Handle))
			return false
		}
		if v.State&bitEnded != 0 {
			return false
		}
		v.State |= bitEnded
		v.Seen = now
		return true
	})
}

// Gone ends a flow whose backend, asked some time ago, had no such connection,
// unless packets came since. It reports whether the kernel has the flow.
func (b *Balancer) Gone(k *core.FlowKey, at At, asked time.Duration) bool {
	return b.change(k, at, func(_ *view, _ *balanceFlowKey, v *balanceFlow, _ bool) (put bool) {
		now := uint32(b.clock.now())
		if asked > core.Unseen(b.clock.duration(since(now, v.Seen)), v.State&bitReopened != 0) {
			return false
		}
		v.State |= bitEnded
		return true
	})
}

// Delete forgets a flow.
func (b *Balancer) Delete(k *core.FlowKey) {
	in := b.view.Load()
	if vip, ok := in.vips.byAddr[k.Dst]; ok {
		key := flowKey(k, vip)
		_, _ = in.flows.Delete(&key), in.pending.Delete(&key)
	}
}

// change has an entry of a flow changed. It reports whether there is one.
func (b *Balancer) change(k *core.FlowKey, at At, fn func(in *view, key *balanceFlowKey, v *balanceFlow, established bool) (put bool)) bool {
	in := b.view.Load()
	vip, ok := in.vips.byAddr[k.Dst]
	if !ok {
		return false
	}
	key := flowKey(k, vip)
	var v balanceFlow
	m := in.flows
	if err := m.Lookup(&key, &v); err != nil {
		if m = in.pending; !errors.Is(err, ebpf.ErrKeyNotExist) || m.Lookup(&key, &v) != nil {
			return false
		}
	}
	if !at(core.ServiceID(v.Service), core.Handle(v.Handle)) {
		return false
	}
	if fn(in, &key, &v, m == in.flows) {
		_ = m.Update(&key, &v, ebpf.UpdateExist) // else it has ended meanwhile
	}
	return true
}

// SetStrict has the programs put flows of backends that tell of their connections
// among the established ones only once they are proven.
func (b *Balancer) SetStrict(on bool) error {
	return b.maps().Strict.Put(uint32(0), uint32(flag(on)))
}

// FlowsFit returns how many established flows fit.
func (b *Balancer) FlowsFit() int { return int(b.view.Load().flows.MaxEntries()) }

// Fill is how full a map is.
type Fill struct {
	Map          string
	Entries, Max int
}

// Fills returns those of the maps that may run full: of the flows by what the last
// garbage collection found.
func (b *Balancer) Fills(found *Collected) []Fill {
	m := b.maps()
	fills := []Fill{{Map: "targets", Max: int(m.Targets.MaxEntries())}}
	b.mu.Lock()
	for i := range b.targets {
		if b.targets[i].Handle != 0 {
			fills[0].Entries++
		}
	}
	b.mu.Unlock()
	if found != nil {
		fills = append(fills, Fill{"flows", found.Flows - found.Pending, int(m.Flows.MaxEntries())}, Fill{"pending", found.Pending, int(m.Pending.MaxEntries())})
	}
	return fills
}
