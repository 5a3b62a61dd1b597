// Package fastpath forwards the packets of placed flows in the kernel: on the
// balancer a TC program puts them into the tunnel, on a backend another takes
// them out. Userspace places each flow and keeps its state; what the programs
// do not know they pass on to it. It is the only importer of cilium/ebpf.
//
//	b, err := fastpath.OpenBalancer(fastpath.Config{Links: []string{"eth0"}, …})
//	err = b.SetTarget(fastpath.Target{…})
//	err = b.Attach()
//	ok := b.Add(&key, service, handle) // from now on its packets stay in the kernel
package fastpath

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Balancer is the program at the ingress of the balancer's links. Its methods
// may be called concurrently, except Attach and Close.
type Balancer struct {
	cfg   Config
	pins  string
	objs  balanceObjects
	hooks []hook

	mu      sync.Mutex
	written map[uint16][]uint32 // the lookup tables as the program has them, by service

	// Inherited says that a predecessor's flows were found, and that its
	// program goes on until Attach.
	Inherited bool
}

// Config is what a balancer's fast path is made with.
type Config struct {
	Links    []string // to attach to
	Flows    int      // room for that many
	Services []*core.Service
	StateDir string // below it all is kept that outlives the process
}

// OpenBalancer loads the program and the maps, a predecessor's where there is
// one with the same layout. Attach puts it to work.
func OpenBalancer(cfg Config) (*Balancer, error) {
	if len(cfg.Links) == 0 {
		return nil, errors.New("fast path: no Ethernet link has an address")
	}
	if err := rlimit.RemoveMemlock(); err != nil { // kernels before 5.11 account maps there
		return nil, fmt.Errorf("fast path: memory lock limit: %w", err)
	}
	pins, err := mountPins(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	b := &Balancer{cfg: cfg, pins: pins, written: map[uint16][]uint32{}}
	_, err = os.Stat(filepath.Join(pins, "flows"))
	b.Inherited = err == nil
	err = b.load()
	if errors.Is(err, ebpf.ErrMapIncompatible) { // another size: the old flows are lost
		if err = Unload(cfg.StateDir); err == nil {
			_, err = mountPins(cfg.StateDir)
		}
		if err == nil {
			b.Inherited = false
			err = b.load()
		}
	}
	if err == nil {
		err = b.setServices()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fast path: load: %w", err), b.objs.Close(), b.unloadOwn())
	}
	return b, nil
}

func (b *Balancer) load() error {
	spec, err := loadBalance()
	if err != nil {
		return err
	}
	spec.Maps["flows"].MaxEntries = uint32(b.cfg.Flows)
	spec.Maps["lookup"].MaxEntries = core.LookupSize * uint32(max(len(b.cfg.Services), 1))
	for _, name := range pinned {
		spec.Maps[name].Pinning = ebpf.PinByName
	}
	return spec.LoadAndAssign(&b.objs, &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: b.pins}})
}

// unloadOwn removes the pins that this process made, not a predecessor's.
func (b *Balancer) unloadOwn() error {
	if b.Inherited {
		return nil
	}
	return Unload(b.cfg.StateDir)
}

// Attach puts the program at the links' ingress; a predecessor's goes.
func (b *Balancer) Attach() error {
	for _, name := range b.cfg.Links {
		h, err := attach(name, b.objs.Balance, b.pins)
		if err != nil {
			return err
		}
		b.hooks = append(b.hooks, h)
	}
	return nil
}

// How says by what the program is attached: tcx or clsact.
func (b *Balancer) How() string {
	if len(b.hooks) == 0 {
		return "not attached"
	}
	return b.hooks[0].how
}

// Close detaches the program and forgets the flows: packets go by userspace
// again.
func (b *Balancer) Close() error {
	errs := []error{Unload(b.cfg.StateDir)}
	for _, h := range b.hooks {
		errs = append(errs, h.Close())
	}
	return errors.Join(append(errs, b.objs.Close())...)
}

// Target is one membership of a backend that flows may be sent to.
type Target struct {
	Service uint16
	Handle  core.Handle
	Addr    netip.Addr // data IP
	Source  netip.Addr // of the outer packets
	Link    int        // index of the link to send by
	MTU     int        // longest inner packet, bytes
	Port    uint16
	Paused  bool
}

// targetKey is unique among the memberships of all services.
func targetKey(service uint16, h core.Handle) uint32 { return uint32(service)<<16 | uint32(h.Slot()) }

// SetTarget adds a target or changes it; flows to an earlier membership in the
// same slot are passed to userspace from then on.
func (b *Balancer) SetTarget(t Target) error {
	key := targetKey(t.Service, t.Handle)
	v := balanceTarget{
		Handle: uint32(t.Handle), Paused: flag(t.Paused), Addr: address(t.Addr), Src: address(t.Source),
		Ifindex: uint32(t.Link), Mtu: uint16(t.MTU), Port: network(t.Port), V6: flag(t.Addr.Is6()),
	}
	var old balanceTarget
	if err := b.objs.Targets.Lookup(key, &old); err == nil && old == v {
		return nil
	} else if err != nil || old.Handle != v.Handle {
		zero := make([]balanceSum, ebpf.MustPossibleCPU())
		if err := b.objs.Sums.Put(key, zero); err != nil {
			return fmt.Errorf("fast path: target %v: %w", t.Addr, err)
		}
	}
	if err := b.objs.Targets.Put(key, v); err != nil {
		return fmt.Errorf("fast path: target %v: %w", t.Addr, err)
	}
	return nil
}

// RemoveTarget forgets a membership; its flows are passed to userspace.
func (b *Balancer) RemoveTarget(service uint16, h core.Handle) error {
	key := targetKey(service, h)
	var v balanceTarget
	if err := b.objs.Targets.Lookup(key, &v); err != nil || v.Handle != uint32(h) {
		return nil // its slot belongs to another one already
	}
	err := b.objs.Targets.Delete(key)
	if sum := b.objs.Sums.Delete(key); err == nil {
		err = sum
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("fast path: target: %w", err)
	}
	return nil
}

// Total is what was forwarded to a membership.
func (b *Balancer) Total(service uint16, h core.Handle) (packets, bytes uint64) {
	var sums []balanceSum
	if b.objs.Sums.Lookup(targetKey(service, h), &sums) != nil {
		return 0, 0
	}
	for _, s := range sums {
		packets += s.Packets
		bytes += s.Bytes
	}
	return packets, bytes
}

// Add hands the packets of a placed flow to the kernel. It says false when that
// cannot be: the map is full.
func (b *Balancer) Add(k *core.FlowKey, service uint16, h core.Handle) bool {
	key := flowKey(k)
	v := balanceFlow{Target: targetKey(service, h), Handle: uint32(h), Seen: uint64(now())}
	return b.objs.Flows.Put(&key, &v) == nil
}

// Remove takes a flow back.
func (b *Balancer) Remove(k *core.FlowKey) {
	key := flowKey(k)
	_ = b.objs.Flows.Delete(&key) // it may be gone
}

// Look is what the kernel forwarded of a flow, and for how long it has been
// silent; ok is false for a flow that it does not have.
func (b *Balancer) Look(k *core.FlowKey) (idle time.Duration, packets, bytes uint64, ok bool) {
	key := flowKey(k)
	var v balanceFlow
	if b.objs.Flows.Lookup(&key, &v) != nil {
		return 0, 0, 0, false
	}
	return max(0, now()-time.Duration(v.Seen)), v.Packets, v.Bytes, true
}

// counterNames are what Counters tells, in the order of the program.
var counterNames = [...]string{"kernel_forwarded", "kernel_too_long", "kernel_paused", "kernel_failed", "kernel_placed"}

// Counters adds the program's counters to a map by name.
func (b *Balancer) Counters(m map[string]uint64) {
	for i, name := range counterNames {
		var cpus []uint64
		if b.objs.Counters.Lookup(uint32(i), &cpus) != nil {
			continue
		}
		for _, n := range cpus {
			m[name] += n
		}
	}
}

func flowKey(k *core.FlowKey) balanceFlowKey {
	return balanceFlowKey{
		Src: words(k.Src), Dst: words(k.Dst),
		Sport: network(k.SrcPort), Dport: network(k.DstPort), Proto: k.Proto,
	}
}

// now is the clock that the programs see, bpf_ktime_get_ns.
func now() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return time.Duration(ts.Nano())
}

func linkIndex(name string) (int, error) {
	l, err := net.InterfaceByName(name)
	if err != nil {
		return 0, fmt.Errorf("link %s: %w", name, err)
	}
	return l.Index, nil
}
