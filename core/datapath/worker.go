// Package datapath is what happens to a packet in userspace: which service it
// is for, which backend its flow has or gets, and how it leaves. A Worker
// handles one queue; workers share nothing but the pools, which are immutable,
// and hand each other the few packets that the kernel could not place.
//
//	w := datapath.NewWorker(cfg)
//	loop := verdict.NewLoop(queue, w) // calls Packet, Flush, Tick
package datapath

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/flow"
	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/verdict"
)

// The packet path, from Packet to Flush. Allowed for a packet of a known or a
// new flow: 0 allocations, 0 locks, no logging. Fragments, ICMP errors and
// oversized packets may allocate.

// Scheduler picks backends for the new flows of one service on one worker.
// All methods are called from the worker's goroutine.
type Scheduler interface {
	// SetPool makes p the pool of the following picks.
	SetPool(p *core.Pool)
	// Pick never fails; index is a position in the pool's Members, -1 with
	// ByReject and ByNobody.
	Pick(f *core.NewFlow) (index int, by core.Decision)
	// Refresh tells the true counts of all workers together, by index in the
	// pool's Members.
	Refresh(active []uint32, packets, bytes []uint64)
	// Ended tells of a flow's end.
	Ended(e *core.FlowEnd)
	// Tick is called about once a second with the monotonic clock, ns.
	Tick(now uint64)
}

// Sender takes packets to backends (forward.Sender). It keeps the packets'
// bytes until Flush.
type Sender interface {
	Tunnel(addr netip.Addr, flow uint64, packet []byte)
	Direct(addr netip.Addr, packet []byte)
	Flush()
}

// Raw sends a finished IP packet (forward.Raw).
type Raw interface{ Send(packet []byte) error }

// Kernel forwards the packets of placed flows without asking again
// (fastpath.Placer).
type Kernel interface {
	// Add hands a flow over, that had some packets already, with the next Flush
	// at the latest; false when it must stay here.
	Add(k *core.FlowKey, service uint16, h core.Handle, packets, bytes uint64) bool
	// Flush comes before the flows' packets are sent on.
	Flush()
	// Find is the backend of a flow that the kernel has.
	Find(k *core.FlowKey) (h core.Handle, ok bool)
}

// Pools publishes the current pool of each service, by Service.Index. Version
// grows with every change, so that a worker need look at one word only.
type Pools struct {
	Version atomic.Uint64
	current []atomic.Pointer[core.Pool]
}

// NewPools starts with an empty pool for each service.
func NewPools(services []*core.Service) *Pools {
	p := &Pools{current: make([]atomic.Pointer[core.Pool], len(services))}
	for i, s := range services {
		p.current[i].Store(core.NewPoolBuilder(s).Build(nil, nil))
	}
	p.Version.Store(1)
	return p
}

// Publish makes p its service's pool.
func (s *Pools) Publish(p *core.Pool) {
	s.current[p.Service.Index].Store(p)
	s.Version.Add(1)
}

// Of is the current pool of a service.
func (s *Pools) Of(service uint16) *core.Pool { return s.current[service].Load() }

// Config is what a worker is made with.
type Config struct {
	Index      int // of the worker and of its queue
	Services   []*core.Service
	Pools      *Pools
	Schedulers []Scheduler // by Service.Index
	Sender     Sender
	Errors     Raw    // ICMP errors to clients
	Kernel     Kernel // nil: every packet comes up
	Flows      int    // capacity of this worker's table
	Timeouts   flow.Timeouts
	FlowQueue  func(*core.FlowKey) int // which worker owns a flow
	Ledger     *Ledger
	LinkMTU    int // of the links that clients come in by; longer packets were put together here
	Seed       uint64
}

// Worker is one queue's datapath. Its methods belong to the verdict loop's
// goroutine, except Do, Hand and the counters.
type Worker struct {
	Config
	byVIP    map[[16]byte][]*core.Service
	table    *flow.Table
	peers    []*Worker
	book     *book
	pools    []*core.Pool // as adopted
	version  uint64
	epoch    time.Time
	now      uint32 // ms since epoch, of this batch
	nowNS    uint64
	fresh    bool // now belongs to this batch
	rand     uint64
	swept    time.Time
	ticked   time.Time // the schedulers
	inbox    chan func()
	wake     func()
	tracker  tracker
	handed   int          // entries of flows that the kernel has
	asked    core.NewFlow // what the scheduler is asked; on the stack it would escape
	told     core.FlowEnd // what it is told, likewise
	sought   core.FlowKey // what the kernel is asked for, likewise
	scratch  scratch
	errQuota int // ICMP errors left until the next Tick

	Counts Counts
}

// NewWorker makes the worker of one queue. Connect must follow.
func NewWorker(cfg Config) *Worker {
	w := &Worker{
		Config: cfg,
		byVIP:  map[[16]byte][]*core.Service{},
		book:   cfg.Ledger.books[cfg.Index],
		pools:  make([]*core.Pool, len(cfg.Services)),
		epoch:  time.Now(),
		rand:   core.Mix(cfg.Seed + uint64(cfg.Index)),
		inbox:  make(chan func(), 512),
	}
	for _, s := range cfg.Services {
		w.byVIP[s.VIP.As16()] = append(w.byVIP[s.VIP.As16()], s)
	}
	w.table = flow.New(cfg.Flows, cfg.Timeouts, w.ended)
	w.tracker.init()
	w.beginBatch() // a pool for every service before the first packet
	w.fresh = false
	return w
}

// Connect introduces the workers to each other; wake makes this worker's loop
// tick soon.
func (w *Worker) Connect(peers []*Worker, wake func()) { w.peers, w.wake = peers, wake }

// Do runs fn in the worker's goroutine soon. It says false when too much
// waits already.
func (w *Worker) Do(fn func()) bool {
	select {
	case w.inbox <- fn:
		w.wake()
		return true
	default:
		return false
	}
}

// Table is the worker's flow table, for use inside Do.
func (w *Worker) Table() *flow.Table { return w.table }

// Age is how long ago a time of the flow table was, inside Do.
func (w *Worker) Age(ms uint32) time.Duration {
	return time.Duration(uint32(time.Since(w.epoch)/time.Millisecond)-ms) * time.Millisecond
}

// Packet implements verdict.Handler.
func (w *Worker) Packet(b []byte, mark uint32) verdict.Verdict {
	if !w.fresh {
		w.beginBatch()
	}
	var p packet.Packet
	if p.Parse(b) != nil {
		w.Counts.add(Malformed)
		return verdict.Drop
	}
	switch {
	case p.Kind == packet.ICMPError:
		return w.icmpError(b, &p)
	case p.IsFragment():
		return w.fragment(b, &p)
	case p.Kind == packet.Transport:
		if s := w.service(&p.Key); s != nil {
			w.forward(s, b, &p, mark)
			return verdict.Drop
		}
	}
	w.Counts.add(Foreign)
	return verdict.Accept
}

// Flush implements verdict.Handler.
func (w *Worker) Flush() {
	if w.Kernel != nil {
		w.Kernel.Flush() // first: the second packets are on their way when the first are sent
	}
	w.Sender.Flush()
	w.fresh = false
}

// beginBatch takes the time and adopts pools that changed.
func (w *Worker) beginBatch() {
	since := time.Since(w.epoch)
	w.now, w.nowNS, w.fresh = uint32(since/time.Millisecond), uint64(since), true
	if v := w.Pools.Version.Load(); v != w.version {
		w.version = v
		w.adopt()
	}
}

func (w *Worker) adopt() {
	for i := range w.pools {
		if p := w.Pools.Of(uint16(i)); p != w.pools[i] {
			w.pools[i] = p
			w.book.open(p)
			w.Schedulers[i].SetPool(p)
			w.refresh(i)
		}
	}
}

// service is the one that balances the key's VIP, protocol and port, or nil.
func (w *Worker) service(k *core.FlowKey) *core.Service {
	for _, s := range w.byVIP[k.Dst] {
		if s.Matches(k.Proto, k.DstPort) {
			return s
		}
	}
	return nil
}

// sweepTime is how long a look at every flow takes.
const sweepTime = 2 * time.Second

// errorsPerTick bounds the ICMP errors that we send (RFC 1812, §4.3.2.8).
const errorsPerTick = 50

// Tick implements verdict.Handler: it does what others asked for, ends idle
// flows, and tells the schedulers the true counts.
func (w *Worker) Tick(now time.Time) {
	w.beginBatch()
	for n := len(w.inbox); n > 0; n-- {
		(<-w.inbox)()
	}
	w.errQuota = errorsPerTick
	passed := min(now.Sub(w.swept), sweepTime)
	w.swept = now
	w.table.Sweep(int(int64(w.table.Cap())*int64(passed)/int64(sweepTime))+1, w.now, w.backendEnded)
	w.tracker.expire(now)
	w.book.settle(w.table, w.handed)
	second := now.Sub(w.ticked) >= time.Second
	if second {
		w.ticked = now
	}
	for i, s := range w.Schedulers {
		w.refresh(i)
		if second {
			s.Tick(w.nowNS)
		}
	}
}

// ended is told of every flow just before its entry is reused.
func (w *Worker) ended(e *flow.Entry) {
	if e.Kernel { // its end is for the census to see
		w.handed--
		return
	}
	w.book.ended(e)
	w.told = core.FlowEnd{
		Backend: e.Backend, Packets: uint64(e.Packets), Bytes: e.Bytes,
		Duration: uint64(e.Seen-e.Created) * uint64(time.Millisecond),
	}
	w.Schedulers[e.Service].Ended(&w.told)
}

func (w *Worker) backendEnded(e *flow.Entry) bool {
	_, ok := w.pools[e.Service].Find(e.Backend)
	return !ok
}

// scratch holds the counts of a refresh and a packet being built.
type scratch struct {
	active         []uint32
	packets, bytes []uint64
	packet         []byte
}

// refresh tells a scheduler what all workers have counted.
func (w *Worker) refresh(service int) {
	p := w.pools[service]
	n := len(p.Members)
	if n == 0 {
		return
	}
	s := &w.scratch
	if cap(s.active) < n {
		s.active, s.packets, s.bytes = make([]uint32, n), make([]uint64, n), make([]uint64, n)
	}
	s.active, s.packets, s.bytes = s.active[:n], s.packets[:n], s.bytes[:n]
	for i := range p.Members {
		t := w.Ledger.Total(p.Service.Index, p.Members[i].Handle)
		s.active[i], s.packets[i], s.bytes[i] = uint32(t.Active), t.Packets, t.Bytes
	}
	w.Schedulers[service].Refresh(s.active, s.packets, s.bytes)
}
