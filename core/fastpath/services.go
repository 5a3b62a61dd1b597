package fastpath

import (
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/caplance/caplance/core"
	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// What the programs need to place flows themselves: a service's configuration,
// where its lookup table sends a flow, and whether the daemon is alive.

// HeartbeatTimeout is how long the daemon may be silent before the programs
// place new flows themselves; Heartbeat has to come more often.
const HeartbeatTimeout = 2 * time.Second

// overdraftTimeout is how long after its last packet a flow that was placed beyond
// the budget stays where it was: SYNs are sent again after 1, 2, 4, 8 and 16 s
// (RFC 6298, §5.5).
const overdraftTimeout = 20 * time.Second

// windows is about how many times a second a service has its budget anew.
const windows = 8

// windowBits returns log2 of the jiffies of such a time, rounded down.
func (b *Balancer) windowBits() uint32 { return uint32(bits.Len64(max(b.clock.hz/b.windows, 1)) - 1) }

// setConfs writes the configuration of the services that changed.
func (b *Balancer) setConfs(g *generation, want *core.Snapshot) error {
	for _, s := range want.Services.List {
		pool := want.Pools.Of(s.ID)
		if err := b.setConf(g, s, pool != nil && pool.Table != nil); err != nil {
			return fmt.Errorf("fast path: service %s: %w", s.Name, err)
		}
	}
	return nil
}

func (b *Balancer) setConf(g *generation, s *core.Service, table bool) error {
	c := b.conf(s, table)
	if have, ok := b.confs[s.ID]; ok && have == c {
		return nil
	}
	if err := g.ServiceConf.Put(uint32(s.ID), &c); err != nil {
		return err
	}
	b.confs[s.ID] = c
	return nil
}

func (b *Balancer) conf(s *core.Service, table bool) balanceService {
	c := balanceService{Seed: s.Seed}
	if table {
		c.Table = 1
	}
	if s.UDP == core.UDPDatagram {
		c.Datagrams = 1
	}
	if s.Clients != nil {
		c.Picky = 1
	}
	if s.NewFlows > 0 {
		c.Interval = uint32(max(b.clock.hz<<16/uint64(s.NewFlows), 1))
		c.Mask4, c.Mask6 = mask(96 + s.SourcePrefix4)[3], mask(s.SourcePrefix6)
	}
	if s.Upcalls > 0 {
		c.Budget = uint32(max(uint64(s.Upcalls)<<b.windowBits()/b.clock.hz, 1))
	}
	return c
}

// mask returns the mask of so many bits of an address.
func mask(bits int) [4]uint32 {
	var a [16]byte
	for i := range bits {
		a[i/8] |= 0x80 >> (i % 8)
	}
	return words(a)
}

// setPools tells the kernel of the members of the pools that changed, before
// the workers know of them, and of their lookup tables.
func (b *Balancer) setPools(was, want *core.Snapshot) error {
	var errs []error
	want.Pools.Each(func(p *core.Pool) {
		var old *core.Pool
		if was != nil {
			old = was.Pools.Of(p.Service.ID)
		}
		if old != p {
			errs = append(errs, b.setPool(old, p, want.Settings.TunnelPort))
		}
	})
	return errors.Join(append(errs, b.linkNew())...)
}

// dropMembers removes the targets of members that have left: what still goes to
// them is lost. The lookup table does not lead there any more.
func (b *Balancer) dropMembers(was, now *core.Pool) error {
	var errs []error
	for i := range was.Members {
		if _, ok := now.Find(was.Members[i].Handle); !ok {
			errs = append(errs, b.RemoveTarget(was.Members[i].Handle))
		}
	}
	return errors.Join(errs...)
}

// linkNew links the lookup tables that the generation at work does not know.
func (b *Balancer) linkNew() error {
	if b.gen == nil || len(b.unlinked) == 0 {
		return nil
	}
	if err := b.gen.link(b.unlinked); err != nil {
		return fmt.Errorf("fast path: lookup tables: %w", err)
	}
	b.unlinked = map[core.ServiceID]*lookupTable{}
	return nil
}

// setPool brings one pool to the kernel. old is what it was, nil if that is not
// known: another table alone leaves the members as they are.
func (b *Balancer) setPool(old, p *core.Pool, port uint16) error {
	var errs []error
	if old == nil || !old.SameMembers(p) {
		for i := range p.Members {
			if t, ok := targetOf(&p.Members[i], port); ok {
				errs = append(errs, b.SetTarget(t))
			}
		}
	}
	if err := b.setLookup(p); err != nil {
		errs = append(errs, fmt.Errorf("fast path: lookup table of %s: %w", p.Service.Name, err))
	}
	if old != nil && !old.SameMembers(p) {
		errs = append(errs, b.dropMembers(old, p))
	}
	return errors.Join(errs...)
}

// lookupTable is a service's lookup table in the kernel, with those that it was
// made of.
type lookupTable struct {
	m      *ebpf.Map
	lookup *core.Lookup
	table  *core.Lookup
}

// setLookup leaves a pool's lookup table in the kernel, the policy's if it has
// one: then new flows are placed by it without an upcall. A new table has to be
// linked.
func (b *Balancer) setLookup(p *core.Pool) (err error) {
	l := b.lookups[p.Service.ID]
	if l == nil {
		if p.Lookup == nil && p.Table == nil {
			return nil // nobody has registered yet
		}
		if l, err = newLookupTable(); err != nil {
			return err
		}
		b.lookups[p.Service.ID], b.unlinked[p.Service.ID] = l, l
	}
	if l.lookup == p.Lookup && l.table == p.Table {
		return nil
	}
	if err := l.write(p); err != nil {
		return err
	}
	l.lookup, l.table = p.Lookup, p.Table
	return nil
}

// lookupBytes is the size of a lookup table.
const lookupBytes = 4 * core.LookupSize

func newLookupTable() (*lookupTable, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "lookup_table", Type: ebpf.Array, Flags: unix.BPF_F_MMAPABLE, KeySize: 4, ValueSize: lookupBytes, MaxEntries: 1,
	})
	return &lookupTable{m: m}, err
}

// write fills the table in place: the programs see each slot as it was or as it
// is to be.
func (l *lookupTable) write(p *core.Pool) error {
	mem, err := unix.Mmap(l.m.FD(), 0, lookupBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	slots := unsafe.Slice((*uint32)(unsafe.Pointer(&mem[0])), core.LookupSize)
	for i := range slots {
		h := core.Handle(0)
		if p.Table != nil {
			h = p.Table.Handle(uint64(i))
		}
		if h == 0 && p.Lookup != nil { // the policy left it to the lookup table
			h = p.Lookup.Handle(uint64(i))
		}
		if atomic.LoadUint32(&slots[i]) != uint32(h) {
			atomic.StoreUint32(&slots[i], uint32(h))
		}
	}
	return unix.Munmap(mem)
}

// linkers is how many system calls link lookup tables at a time.
const linkers = 64

// link makes lookup tables those of their services. For each system call the
// kernel waits for the programs that are running, and 5.10 and 6.1 do so for each
// table (17 ms): many calls wait together.
func (g *generation) link(lookups map[core.ServiceID]*lookupTable) error {
	var ids, fds []uint32
	for id, l := range lookups {
		if uint32(id) < g.Lookup.MaxEntries() { // else the generation that knows the service is on its way
			ids, fds = append(ids, uint32(id)), append(fds, uint32(l.m.FD()))
		}
	}
	return linkAll(g.Lookup, ids, fds)
}

// linkAll puts maps into one of maps, many system calls at a time.
func linkAll(into *ebpf.Map, ids, fds []uint32) error {
	errs := make([]error, min(len(ids), linkers))
	var wg sync.WaitGroup
	for i := range errs {
		from, to := i*len(ids)/len(errs), (i+1)*len(ids)/len(errs)
		wg.Go(func() { errs[i] = putBatch(into, ids[from:to], fds[from:to]) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// linkLookups gives a new generation the lookup tables that there are.
func (b *Balancer) linkLookups(g *generation) error {
	if err := g.link(b.lookups); err != nil {
		return fmt.Errorf("fast path: lookup tables: %w", err)
	}
	return nil
}

// pruneLookups frees the tables of services that are gone.
func (b *Balancer) pruneLookups(want *core.Snapshot) error {
	var errs []error
	for id, l := range b.lookups {
		if want.Services.Get(id) != nil {
			continue
		}
		if uint32(id) < b.gen.Lookup.MaxEntries() {
			if err := b.gen.Lookup.Delete(uint32(id)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				errs = append(errs, fmt.Errorf("fast path: lookup table: %w", err))
			}
		}
		errs = append(errs, l.m.Close())
		delete(b.lookups, id)
		delete(b.unlinked, id)
		delete(b.confs, id)
	}
	return errors.Join(errs...)
}

// counterNames are what Counters tells, in the order of the program.
var counterNames = [...]string{
	"kernel_forwarded", "xdp_forwarded", "kernel_upcalls", "kernel_placed", "kernel_over_budget", "kernel_slow",
	"kernel_too_long", "kernel_stale", "kernel_paused", "kernel_no_backend", "kernel_flows_full", "kernel_failed", "kernel_denied", "kernel_limited",
}

// xdpForwarded is the place of its name.
const xdpForwarded = 1

// Counters adds the programs' counters to a map by name. What XDP forwarded is
// in kernel_forwarded, too.
func (b *Balancer) Counters(m map[string]uint64) {
	for i, name := range counterNames {
		var cpus []uint64
		if b.maps().Counters.Lookup(uint32(i), &cpus) != nil {
			continue
		}
		for _, n := range cpus {
			m[name] += n
			if i == xdpForwarded { // what m has of another fast path is in both already
				m[counterNames[0]] += n
			}
		}
	}
}
