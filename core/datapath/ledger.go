package datapath

import (
	"sync/atomic"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/flow"
)

// Ledger counts flows, packets and bytes per backend: each worker writes its
// own book, anyone may read them all.
type Ledger struct{ books []*book }

// NewLedger makes a ledger for a number of workers and services. One more book
// is the kernel's.
func NewLedger(workers, services int) *Ledger {
	l := &Ledger{}
	for range workers + 1 {
		l.books = append(l.books, &book{accounts: make([]atomic.Pointer[[]*account], services)})
	}
	return l
}

// Kernel notes what the kernel has done for the members of a pool since each
// registered: what it forwarded, and how many flows it placed itself. One
// goroutine may call it.
func (l *Ledger) Kernel(p *core.Pool, total func(h core.Handle) (packets, bytes, placed uint64)) {
	b := l.kernel()
	b.open(p)
	for _, m := range p.Members {
		a := b.account(p.Service.Index, m.Handle)
		packets, bytes, placed := total(m.Handle)
		a.packets.Store(packets)
		a.bytes.Store(bytes)
		a.flows.Store(placed)
	}
}

func (l *Ledger) kernel() *book { return l.books[len(l.books)-1] }

// Handed is how many flows of a backend the workers have handed to the kernel,
// ever: taken before a census, it tells afterwards which of them that saw.
func (l *Ledger) Handed(service uint16, h core.Handle) (n int64) {
	for _, b := range l.books {
		if a := b.account(service, h); a != nil {
			n += a.handedOver.Load()
		}
	}
	return n
}

// Census notes how many flows of a backend are open in the kernel, of those
// that were handed over before it was taken, and of those placed there.
func (l *Ledger) Census(service uint16, h core.Handle, open, handedBefore int64) {
	if a := l.kernel().account(service, h); a != nil {
		a.active.Store(open - handedBefore)
	}
}

// InKernel notes how many flows the kernel's tables hold in all.
func (l *Ledger) InKernel(flows int) { l.kernel().flows.Store(int64(flows)) }

// Totals are what all workers counted for one backend of one service since it
// registered.
type Totals struct {
	Active  int64  // flows now
	Flows   uint64 // flows ever
	Packets uint64
	Bytes   uint64
}

// Total sums the books' accounts of one backend.
func (l *Ledger) Total(service uint16, h core.Handle) (t Totals) {
	for _, b := range l.books {
		if a := b.account(service, h); a != nil {
			t.Active += a.active.Load() + a.handedOver.Load()
			t.Flows += a.flows.Load()
			t.Packets += a.packets.Load()
			t.Bytes += a.bytes.Load()
		}
	}
	t.Active = max(t.Active, 0) // a census and a hand-over may cross
	return t
}

// Table is the size and the pressure of all flow tables together.
type Table struct {
	Flows, Capacity  int64
	Evicted, Refused uint64
}

// Table sums what the workers last said of their flow tables.
func (l *Ledger) Table() (t Table) {
	for _, b := range l.books {
		t.Flows += b.flows.Load()
		t.Capacity += b.capacity.Load()
		t.Evicted += b.evicted.Load()
		t.Refused += b.refused.Load()
	}
	return t
}

// book is one worker's part. Slices are replaced, never changed, when pools
// grow, so that readers need no lock.
type book struct {
	accounts []atomic.Pointer[[]*account] // by service, by Handle.Slot

	flows, capacity  atomic.Int64
	evicted, refused atomic.Uint64
}

// account has a cache line of its own: workers do not slow each other down.
type account struct {
	handle  core.Handle
	active  atomic.Int64
	flows   atomic.Uint64
	packets atomic.Uint64
	bytes   atomic.Uint64

	handedOver atomic.Int64 // flows given to the kernel, ever

	_ [16]byte
}

func (b *book) account(service uint16, h core.Handle) *account {
	list := b.accounts[service].Load()
	if list == nil || int(h.Slot()) >= len(*list) {
		return nil
	}
	if a := (*list)[h.Slot()]; a != nil && a.handle == h {
		return a
	}
	return nil
}

// open makes accounts for a pool's members, closing those of members that
// left.
func (b *book) open(p *core.Pool) {
	list := make([]*account, p.Slots())
	for _, m := range p.Members {
		a := b.account(p.Service.Index, m.Handle)
		if a == nil {
			a = &account{handle: m.Handle}
		}
		list[m.Handle.Slot()] = a
	}
	b.accounts[p.Service.Index].Store(&list)
}

// began counts a new flow.
func (b *book) began(e *flow.Entry) {
	if a := b.account(e.Service, e.Backend); a != nil {
		a.active.Add(1)
		a.flows.Add(1)
	}
}

// handed counts a flow that the kernel has from now on.
func (b *book) handed(e *flow.Entry) {
	if a := b.account(e.Service, e.Backend); a != nil {
		a.active.Add(-1)
		a.handedOver.Add(1)
	}
}

// ended counts a flow's end.
func (b *book) ended(e *flow.Entry) {
	if a := b.account(e.Service, e.Backend); a != nil {
		a.active.Add(-1)
	}
}

// packet counts a packet of size bytes.
func (b *book) packet(service uint16, h core.Handle, size int) {
	if a := b.account(service, h); a != nil {
		a.packets.Add(1)
		a.bytes.Add(uint64(size))
	}
}

// settle publishes the state of the flow table, in which some entries are but
// memos of flows that the kernel has.
func (b *book) settle(t *flow.Table, memos int) {
	b.flows.Store(int64(t.Len() - memos))
	b.capacity.Store(int64(t.Cap()))
	b.evicted.Store(t.Evicted)
	b.refused.Store(t.Refused)
}
