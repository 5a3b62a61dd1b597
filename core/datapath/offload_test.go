package datapath

import (
	"slices"
	"testing"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/counters"
	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/packet/packettest"
)

// fakeKernel is a kernel that forwards nothing by itself.
type fakeKernel struct {
	flows  map[core.FlowKey]core.Handle
	added  []core.FlowKey // since the last Flush
	asked  int
	refuse bool
}

func (k *fakeKernel) Add(key *core.FlowKey, _ core.ServiceID, h core.Handle, _, _ uint64) bool {
	if !k.refuse {
		k.flows[*key] = h
		k.added = append(k.added, *key)
	}
	return !k.refuse
}
func (k *fakeKernel) Flush()                   { k.added = nil }
func (k *fakeKernel) Delete(key *core.FlowKey) { delete(k.flows, *key) }
func (k *fakeKernel) Find(key *core.FlowKey) (core.Handle, bool) {
	k.asked++
	h, ok := k.flows[*key]
	return h, ok
}

// kernelRig returns one worker above a kernel, with backends that work with it.
func kernelRig(t *testing.T, backends int) (*rig, *fakeKernel) {
	r := newRig(t, 1)
	r.setBackends(backends, nil, nil)
	for i := range r.backends {
		r.backends[i].KernelDecap = true
	}
	r.publish(nil)
	k := &fakeKernel{flows: map[core.FlowKey]core.Handle{}}
	r.workers[0].Offloader = k
	return r, k
}

// A flow goes to the kernel with its first packet, if its backend can take
// packets from there; only plain packets take it there.
func TestOffload(t *testing.T) {
	r, k := kernelRig(t, 2)
	r.backend(syn(1))
	if len(k.flows) != 1 || len(k.added) != 0 {
		t.Errorf("%d flows in the kernel after a SYN, %d not flushed", len(k.flows), len(k.added))
	}
	for i := range r.backends {
		r.backends[i].KernelDecap = false
	}
	r.publish(nil)
	r.backend(syn(2))
	if len(k.flows) != 1 {
		t.Error("offloaded though the backend's agent works in userspace")
	}
	for i := range r.backends {
		r.backends[i].Mode = core.ModeDirect
	}
	r.publish(nil)
	if out := r.give(0, syn(3)); len(out) != 1 || !out[0].direct || len(k.flows) != 2 {
		t.Errorf("direct mode: %+v, %d flows in the kernel", out, len(k.flows))
	}
	for _, f := range fragments(t, packettest.UDP(client(4), vip4, make([]byte, 600)), 400) {
		r.give(0, f)
	}
	if len(k.flows) != 2 {
		t.Error("offloaded though all that comes are fragments")
	}
	k.refuse = true
	r.backend(syn(5))
	h := r.snap.Pools.Of(0).Members
	if a, b := r.counters.Total(h[0].Handle), r.counters.Total(h[1].Handle); a.Active+b.Active != 5 || a.Flows+b.Flows != 5 {
		t.Errorf("%+v and %+v", a, b)
	}
	if w := r.workers[0]; w.memos != 2 || w.table.Len() != 5 {
		t.Errorf("%d of %d entries are memos", w.memos, w.table.Len())
	}
}

// What comes up of a flow that the kernel has follows it, though its memo is
// gone; the first packet of a flow asks nobody.
func TestKernelKnows(t *testing.T) {
	r, k := kernelRig(t, 3)
	for n := range 9 {
		first := r.backend(syn(n))
		w := r.workers[0]
		key := core.FlowKey{Src: client(n).Addr().As16(), Dst: vip4.Addr().As16(), SrcPort: client(n).Port(), DstPort: 80, Proto: 6}
		w.table.Remove(w.table.Find(&key, w.Hash(&key)))
		if n == 0 && k.asked != 0 {
			t.Error("the kernel was asked about a SYN")
		}
		options := slices.Insert(ack(n), 20, 1, 1, 1, 1) // four times "no operation"
		options[0], options[3] = 0x46, options[3]+4
		if got := r.backend(options); got != first {
			t.Errorf("a packet with options went to %v, its flow is at %v", got, first)
		}
	}
	if active := r.scheds[0][0].ended; len(active) != 0 {
		t.Errorf("ends were told: %v", active)
	}
}

// A flow that the kernel lost goes there again; one that is opened once more
// much later is another one.
func TestKernelForgets(t *testing.T) {
	r, k := kernelRig(t, 2)
	first := r.backend(syn(1))
	clear(k.flows)
	if r.backend(ack(1)) != first || len(k.flows) != 1 {
		t.Error("a flow that was lost in the kernel moved, or stayed up")
	}
	if r.backend(syn(1)) != first {
		t.Error("a SYN that came twice was scheduled twice")
	}
	r.workers[0].epoch = r.workers[0].epoch.Add(-time.Second)
	if r.backend(syn(1)) == first {
		t.Error("the next connection from the same port was not scheduled")
	}
}

// The policy hears of ends in the kernel, and active flows are what the last
// collection saw and what was offloaded since.
func TestCollected(t *testing.T) {
	r, _ := kernelRig(t, 1)
	h := r.snap.Pools.Of(0).Members[0].Handle
	for n := range 10 {
		r.backend(syn(n))
	}
	before := r.counters.Offloaded(h)
	r.backend(syn(10))
	r.counters.Kernel(r.services[0], h, counters.Done{Packets: 1000, Bytes: 99000, ByFallback: 3})
	r.counters.Collected(h, 7, 0, before) // 3 of the 10 have ended
	r.backend(syn(11))
	if got, want := r.counters.Total(h), (counters.Total{Active: 9, Flows: 15, Packets: 1012, Bytes: 99480}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	r.workers[0].Ended(0, core.FlowEnd{Backend: h, Packets: 5})
	if e := r.scheds[0][0].ended; len(e) != 1 || e[0].Packets != 5 {
		t.Errorf("%+v", e)
	}
}

// An ICMP error about a flow that the kernel has finds its backend.
func TestICMPErrorOfAKernelFlow(t *testing.T) {
	r, k := kernelRig(t, 3)
	to := r.backend(syn(1))
	w := r.workers[0]
	for key := range k.flows {
		w.table.Remove(w.table.Find(&key, w.Hash(&key)))
	}
	quoted := packettest.TCP(vip4, client(1), packet.ACK, nil)
	out := r.give(0, packettest.ICMPError(client(1).Addr(), 3, 4, quoted))
	if len(out) != 1 || out[0].to != to {
		t.Errorf("%+v, the flow is at %v", out, to)
	}
}
