// Package counters counts flows, packets and bytes of each membership: every
// worker writes its own counters, anyone may read the sums. They are flat
// arrays by core.Handle's slot.
package counters

import (
	"slices"
	"sync/atomic"

	"github.com/caplance/caplance/core"
)

// Set is the counters of all workers and of the kernel.
type Set struct {
	workers atomic.Pointer[[]*Worker]
	kernel  *Worker // of the fast path
	before  *Worker // of those that were turned off
}

// New returns counters for a number of workers.
func New(workers int) *Set {
	s := &Set{kernel: &Worker{}, before: &Worker{}}
	s.workers.Store(new([]*Worker))
	s.Grow(workers)
	return s
}

// Grow makes counters for more workers, if there are not that many yet. It is
// called by one goroutine at a time.
func (s *Set) Grow(workers int) {
	list := slices.Clone(*s.workers.Load())
	for len(list) < workers {
		list = append(list, &Worker{})
	}
	s.workers.Store(&list)
}

// Worker returns the counters that one worker writes.
func (s *Set) Worker(i int) *Worker { return (*s.workers.Load())[i] }

// chunk is how many slots are allocated at once.
const chunk = 1 << 10

// Worker is one worker's counters. The methods that write are called by that
// worker alone.
type Worker struct {
	chunks [core.MaxSlots / chunk]atomic.Pointer[[chunk]member]

	services [core.MaxServices / chunk]atomic.Pointer[[chunk]atomic.Pointer[Service]]

	Flows, Capacity  atomic.Int64 // of its flow table
	Evicted, Refused atomic.Uint64
}

// member is the counters of one membership, in a cache line of its own: workers
// do not slow each other down.
type member struct {
	handle    atomic.Uint32
	active    atomic.Int64
	flows     atomic.Uint64
	packets   atomic.Uint64
	bytes     atomic.Uint64
	offloaded atomic.Int64 // flows given to the kernel, ever
	closing   atomic.Int64 // flows that may be half-closed, not among the active

	byTable atomic.Uint64 // of flows, those that the kernel placed by a policy's table
}

func (w *Worker) get(h core.Handle) *member {
	c := w.chunks[h.Slot()/chunk].Load()
	if c == nil {
		return nil
	}
	m := &c[h.Slot()%chunk]
	if core.Handle(m.handle.Load()) != h {
		return nil
	}
	return m
}

// Open makes counters for a membership that has none yet; those of the one
// before in its slot are forgotten.
func (w *Worker) Open(h core.Handle) {
	at := &w.chunks[h.Slot()/chunk]
	if at.Load() == nil {
		at.Store(new([chunk]member))
	}
	m := &at.Load()[h.Slot()%chunk]
	if core.Handle(m.handle.Load()) == h {
		return
	}
	m.handle.Store(0) // nobody reads a mixture
	m.active.Store(0)
	m.flows.Store(0)
	m.packets.Store(0)
	m.bytes.Store(0)
	m.offloaded.Store(0)
	m.closing.Store(0)
	m.byTable.Store(0)
	m.handle.Store(uint32(h))
}

// Began counts a new flow.
func (w *Worker) Began(h core.Handle) {
	if m := w.get(h); m != nil {
		m.active.Add(1)
		m.flows.Add(1)
	}
}

// Adopted counts a flow that began elsewhere.
func (w *Worker) Adopted(h core.Handle) {
	if m := w.get(h); m != nil {
		m.active.Add(1)
	}
}

// Offloaded counts a flow that the kernel has from now on.
func (w *Worker) Offloaded(h core.Handle) {
	if m := w.get(h); m != nil {
		m.active.Add(-1)
		m.offloaded.Add(1)
	}
}

// Ended counts a flow's end.
func (w *Worker) Ended(h core.Handle) {
	if m := w.get(h); m != nil {
		m.active.Add(-1)
	}
}

// Closing counts flows that began (1) or ceased (-1) to be half-closed.
func (w *Worker) Closing(h core.Handle, by int64) {
	if m := w.get(h); m != nil {
		m.closing.Add(by)
	}
}

// Packet counts a packet of size bytes.
func (w *Worker) Packet(h core.Handle, size int) {
	if m := w.get(h); m != nil {
		m.packets.Add(1)
		m.bytes.Add(uint64(size))
	}
}

// Done is what the kernel has done for a membership since it registered: what it
// forwarded, and the flows that it placed itself, by what.
type Done struct{ Packets, Bytes, ByTable, ByFallback uint64 }

// Kernel notes what the kernel has done for a membership of a service. What is new of
// its placements is added to the service's, which outlive the membership. One
// goroutine at a time may call it.
func (s *Set) Kernel(svc *core.Service, h core.Handle, done Done) {
	s.kernel.Open(h)
	m := s.kernel.get(h)
	m.packets.Store(done.Packets)
	m.bytes.Store(done.Bytes)
	byTable := m.byTable.Swap(done.ByTable)
	byFallback := m.flows.Swap(done.ByTable+done.ByFallback) - byTable
	placed := s.kernel.Service(svc.ID, svc.Name)
	placed.byTable.Add(done.ByTable - min(byTable, done.ByTable))
	placed.byFallback.Add(done.ByFallback - min(byFallback, done.ByFallback))
}

// Offloaded returns how many flows of a membership the workers have given to
// the kernel, ever: taken before a garbage collection, it tells afterwards which
// of them that saw.
func (s *Set) Offloaded(h core.Handle) (n int64) {
	for _, w := range *s.workers.Load() {
		if m := w.get(h); m != nil {
			n += m.offloaded.Load()
		}
	}
	return n
}

// Collected notes how many flows of a membership are open and half-closed in the
// kernel, of those that were offloaded before the collection, and of those placed
// there.
func (s *Set) Collected(h core.Handle, open, closing, offloadedBefore int64) {
	if s.kernel.get(h) == nil {
		if open == 0 && closing == 0 && offloadedBefore == 0 {
			return
		}
		s.kernel.Open(h)
	}
	m := s.kernel.get(h)
	m.active.Store(open - offloadedBefore)
	m.closing.Store(closing)
}

// KernelGone keeps what a fast path that is turned off has counted: another one
// begins at zero. No flow is in the kernel any more. One goroutine may call it.
func (s *Set) KernelGone() {
	for i := range s.kernel.chunks {
		c := s.kernel.chunks[i].Load()
		if c == nil {
			continue
		}
		for j := range c {
			if h := core.Handle(c[j].handle.Load()); h != 0 {
				s.keep(h, &c[j])
			}
		}
	}
	s.InKernel(0)
}

func (s *Set) keep(h core.Handle, m *member) {
	s.before.Open(h)
	kept := s.before.get(h)
	kept.packets.Add(m.packets.Swap(0))
	kept.bytes.Add(m.bytes.Swap(0))
	kept.flows.Add(m.flows.Swap(0))
	m.byTable.Store(0)
	m.active.Store(-s.Offloaded(h))
	m.closing.Store(0)
}

// InKernel notes how many flows the kernel's tables hold in all.
func (s *Set) InKernel(flows int) { s.kernel.Flows.Store(int64(flows)) }

// Service is one worker's counters of a service.
type Service struct {
	Denied  atomic.Uint64 // packets of new flows, by its list of clients
	Limited atomic.Uint64 // likewise, by max_new_flows
	Picks   Histogram     // how long a sample of the picks took

	name                string
	byTable, byFallback atomic.Uint64 // flows that the kernel placed
}

// Service returns a worker's counters of a service, to be written by it alone. They
// begin at zero when another service had the ID.
func (w *Worker) Service(id core.ServiceID, name string) *Service {
	at := &w.services[id/chunk]
	if at.Load() == nil {
		at.Store(new([chunk]atomic.Pointer[Service]))
	}
	one := &at.Load()[id%chunk]
	if s := one.Load(); s != nil && s.name == name {
		return s
	}
	s := &Service{name: name, Picks: Histogram{Bounds: PickBounds}}
	one.Store(s)
	return s
}

func (w *Worker) service(svc *core.Service) *Service {
	if c := w.services[svc.ID/chunk].Load(); c != nil {
		if s := c[svc.ID%chunk].Load(); s != nil && s.name == svc.Name {
			return s
		}
	}
	return nil
}

// ServiceTotal is what was counted for a service.
type ServiceTotal struct {
	Denied, Limited     uint64 // packets of new flows that the workers dropped
	ByTable, ByFallback uint64 // flows that the kernel placed
	Picks               Distribution
}

// Service returns the sum of all workers and the kernel.
func (s *Set) Service(svc *core.Service) (t ServiceTotal) {
	for _, w := range *s.workers.Load() {
		if c := w.service(svc); c != nil {
			t.Denied += c.Denied.Load()
			t.Limited += c.Limited.Load()
			t.Picks.Add(&c.Picks)
		}
	}
	if c := s.kernel.service(svc); c != nil {
		t.ByTable, t.ByFallback = c.byTable.Load(), c.byFallback.Load()
	}
	return t
}

// Total is what was counted for a membership since it registered.
type Total struct {
	Active  int64  // flows now
	Closing int64  // flows besides that may be half-closed
	Flows   uint64 // flows ever
	Packets uint64
	Bytes   uint64
}

// Total returns the sum of all workers and the kernel.
func (s *Set) Total(h core.Handle) (t Total) {
	t.add(s.kernel.get(h))
	t.add(s.before.get(h))
	for _, w := range *s.workers.Load() {
		t.add(w.get(h))
	}
	t.Active = max(t.Active, 0) // a collection and an offload may cross
	return t
}

func (t *Total) add(m *member) {
	if m == nil {
		return
	}
	t.Active += m.active.Load() + m.offloaded.Load()
	t.Closing += m.closing.Load()
	t.Flows += m.flows.Load()
	t.Packets += m.packets.Load()
	t.Bytes += m.bytes.Load()
}

// Table is the size and the pressure of all flow tables together.
type Table struct {
	Flows, Capacity  int64
	Evicted, Refused uint64
}

// Table returns the sum of what the workers last said of their flow tables.
func (s *Set) Table() (t Table) {
	t.Flows = s.kernel.Flows.Load()
	for _, w := range *s.workers.Load() {
		t.Flows += w.Flows.Load()
		t.Capacity += w.Capacity.Load()
		t.Evicted += w.Evicted.Load()
		t.Refused += w.Refused.Load()
	}
	return t
}
