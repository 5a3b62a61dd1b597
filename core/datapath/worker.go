// Package datapath is what happens to a packet in userspace: which service it
// is for, which backend its flow has or gets, and how it leaves. A Worker
// handles one queue; workers share nothing but the snapshots, which are
// immutable, and steer to each other the few packets that the kernel could not
// place.
//
//	w := datapath.NewWorker(cfg)
//	loop := verdict.NewLoop(queue, w) // calls Packet, Flush, Woken, Tick
package datapath

import (
	"math/bits"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/counters"
	"github.com/caplance/caplance/core/flow"
	"github.com/caplance/caplance/core/packet"
	"github.com/caplance/caplance/core/verdict"
)

// The packet path, from Packet to Flush. Allowed for a packet of a known or a
// new flow: 0 allocations, 0 locks, no logging. Fragments, ICMP errors, oversized
// packets and answers to clients may allocate, and so may the first packet after a
// change of its service's pool.

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
	Tunnel(addr netip.Addr, src uint16, folds bool, packet []byte)
	Direct(addr netip.Addr, packet []byte)
	Flush()
}

// Raw sends a finished IP packet (forward.Raw).
type Raw interface{ Send(packet []byte) error }

// Offloader forwards the packets of known flows without asking again
// (fastpath.Offloader).
type Offloader interface {
	// Add hands a flow over, that had some packets already, with the next Flush
	// at the latest; false when it must stay here.
	Add(k *core.FlowKey, service core.ServiceID, h core.Handle, packets, bytes uint64) bool
	// Flush comes before the flows' packets are sent on.
	Flush()
	// Find returns the backend of a flow that the kernel has.
	Find(k *core.FlowKey) (h core.Handle, ok bool)
	// Delete forgets a flow.
	Delete(k *core.FlowKey)
}

// Config is what a worker is made with.
type Config struct {
	Index     int // of the worker and of its queue
	Snapshot  func() *core.Snapshot
	Scheduler func(*core.Service) Scheduler // nil for a service without one
	Sender    Sender
	Errors    Raw                     // ICMP errors and resets to clients
	Offloader Offloader               // nil: every packet comes up
	Flows     int                     // capacity of this worker's table
	FlowQueue func(*core.FlowKey) int // which worker owns a flow
	Moving    func() bool             // reports whether others may hold this worker's flows; nil: never
	Counters  *counters.Set
	Truth     Truth    // nil: nobody tells of connections
	Limiter   *Limiter // of all workers; nil: one of its own
	Seed      uint64
}

// Worker is one queue's datapath. Its methods belong to the verdict loop's
// goroutine, except Do and the counters.
type Worker struct {
	Config
	snap         *core.Snapshot
	byVIP        map[[16]byte][]*core.Service
	views        []view // by ServiceID
	table        *flow.Table
	seed         uint64 // of the table's hash: services' seeds may change
	peers        []*Worker
	own          *counters.Worker
	epoch        time.Time
	now          uint32 // ms since epoch, of this batch
	nowNS        uint64
	hungUntil    uint64 // ns since epoch: until then SYNs may be of flows that the kernel has placed
	recheckUntil uint64 // ns since epoch: until then the sweep looks at flows' clients
	clockRead    bool   // now belongs to this batch
	busy         bool   // packets came since the last Tick
	rand         uint64
	picks        uint32 // that a scheduler was asked for
	swept        time.Time
	ticked       time.Time    // the schedulers
	beat         atomic.Int64 // ns since epoch, of the last Tick
	inbox        chan func()
	wake         func()
	tracker      tracker
	memos        int // entries of flows that the kernel has
	held         map[core.FlowKey]held
	pickArg      core.NewFlow // what the scheduler is asked; on the stack it would escape
	endArg       core.FlowEnd // what it is told, likewise
	lookup       core.FlowKey // what the kernel is asked for, likewise
	signs        Signs        // what the judge is asked, likewise
	scratch      scratch
	errQuota     int // ICMP errors left until the next Tick
	rstQuota     int // TCP resets, likewise

	Counts Counts
}

// view is what a worker makes of a service.
type view struct {
	service   *core.Service // nil: there is none
	pool      *core.Pool    // as the scheduler and the counters know it
	scheduler Scheduler     // nil: the lookup table answers
	counts    *counters.Service
	refreshed uint32 // when it was last told the true counts, ms
}

// NewWorker makes the worker of one queue. Connect must follow.
func NewWorker(cfg Config) *Worker {
	w := &Worker{
		Config: cfg,
		own:    cfg.Counters.Worker(cfg.Index),
		epoch:  time.Now(),
		rand:   core.Mix(cfg.Seed + uint64(cfg.Index)),
		seed:   core.Mix(cfg.Seed),
		inbox:  make(chan func(), 512),
	}
	if w.Limiter == nil {
		w.Limiter = NewLimiter(cfg.Seed)
	}
	w.tracker.init(&w.Counts[FragmentsLost])
	w.held = map[core.FlowKey]held{}
	w.beginBatch() // services before the first packet
	w.clockRead = false
	w.table = flow.New(cfg.Flows, w.snap.Timeouts(), w.ended)
	return w
}

// Connect introduces the workers to each other; wake makes this worker's loop
// call Woken soon. While the worker runs, inside Do.
func (w *Worker) Connect(peers []*Worker, wake func()) {
	w.peers = peers
	if w.wake == nil { // others call it
		w.wake = wake
	}
}

// Misplaced returns how many flows the worker has, memos not counted, that
// another one owns by now. Inside Do.
func (w *Worker) Misplaced() (n int) {
	w.table.Walk(0, w.table.Cap(), func(e *flow.Entry) {
		if !e.Kernel() && w.FlowQueue(&e.Key) != w.Index {
			n++
		}
	})
	return n
}

// Do runs fn in the worker's goroutine soon. It reports false when too much
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

// Table returns the worker's flow table, for use inside Do.
func (w *Worker) Table() *flow.Table { return w.table }

// Hash returns a key's hash in the flow table.
func (w *Worker) Hash(k *core.FlowKey) uint64 { return k.Hash(w.seed) }

// Resize gives the flow table another capacity, inside Do. Established flows
// are kept as far as there is room.
func (w *Worker) Resize(capacity int) {
	if capacity == w.table.Cap() {
		return
	}
	next := flow.New(capacity, w.snap.Timeouts(), w.ended)
	next.Adopt(w.table, w.ended)
	w.settleFull()
	w.table, w.Flows = next, capacity
}

// Age returns how long ago a time of the flow table was, inside Do.
func (w *Worker) Age(ms uint32) time.Duration {
	return time.Duration(uint32(time.Since(w.epoch)/time.Millisecond)-ms) * time.Millisecond
}

// Silent returns how long ago the worker did its housekeeping, for anyone to ask: a
// quarter of a second at most while its loop runs.
func (w *Worker) Silent() time.Duration { return time.Since(w.epoch) - time.Duration(w.beat.Load()) }

// Packet implements verdict.Handler.
func (w *Worker) Packet(b []byte, mark uint32) verdict.Verdict {
	if !w.clockRead {
		w.beginBatch()
		w.busy = true
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
			if p.Atomic {
				return w.atomic(s, b, &p, mark)
			}
			return w.forward(s, b, &p, mark)
		}
	}
	return w.foreign(&p)
}

// Flush implements verdict.Handler.
func (w *Worker) Flush() {
	if w.Offloader != nil {
		w.Offloader.Flush() // first: the second packets are on their way when the first are sent
	}
	w.Sender.Flush()
	w.clockRead = false
}

// beginBatch takes the time and the current snapshot.
func (w *Worker) beginBatch() {
	since := time.Since(w.epoch)
	was := w.nowNS
	w.now, w.nowNS, w.clockRead = uint32(since/time.Millisecond), uint64(since), true
	w.noteHang(w.nowNS - was)
	if s := w.Snapshot(); s != w.snap {
		w.adopt(s)
	}
}

// adopt takes the services and settings of a snapshot. Pools are looked at when
// a packet needs them.
func (w *Worker) adopt(s *core.Snapshot) {
	was := w.snap
	w.snap = s
	if was == nil || was.Services != s.Services {
		w.adoptServices(s.Services)
	}
	if was != nil && (was.Settings.Timeouts != s.Settings.Timeouts || was.Services != s.Services) {
		w.table.SetTimeouts(s.Timeouts())
	}
}

func (w *Worker) adoptServices(set *core.ServiceSet) {
	views := make([]view, max(set.Len(), len(w.views)))
	byVIP := map[[16]byte][]*core.Service{}
	for _, s := range set.List {
		v := &views[s.ID]
		if int(s.ID) < len(w.views) && w.views[s.ID].service != nil {
			*v = w.views[s.ID]
		}
		v.counts = w.own.Service(s.ID, s.Name)
		if s.Clients != nil && (v.service == nil || v.service.Clients != s.Clients) {
			w.recheckUntil = w.nowNS + uint64(2*sweepTime)
		}
		v.service = s
		if sched := w.Scheduler(s); sched != v.scheduler {
			v.scheduler, v.pool = sched, nil // it is to be told of the pool
		}
		k := s.VIP.As16()
		if s.Leaving { // its ports may be another's by now
			byVIP[k] = append(byVIP[k], s)
		} else {
			byVIP[k] = append([]*core.Service{s}, byVIP[k]...)
		}
	}
	w.views, w.byVIP = views, byVIP
}

// pool returns the current pool of a service, known to its scheduler and its
// counters; nil for a service that is gone.
func (w *Worker) pool(id core.ServiceID) *core.Pool {
	p := w.snap.Pools.Of(id)
	if p == nil || int(id) >= len(w.views) || w.views[id].service == nil {
		return nil
	}
	if v := &w.views[id]; v.pool != p {
		w.adoptPool(v, p)
	}
	return p
}

func (w *Worker) adoptPool(v *view, p *core.Pool) {
	if v.scheduler != nil && v.pool != nil {
		w.refresh(v) // newcomers start at the level that the others have now, not at the last pick
	}
	v.pool = p
	for i := range p.Members {
		w.own.Open(p.Members[i].Handle)
	}
	if v.scheduler != nil {
		v.scheduler.SetPool(p)
		w.refresh(v)
	}
}

// service returns the one that balances the key's VIP, protocol and port, or
// nil. One that is leaving comes last.
func (w *Worker) service(k *core.FlowKey) *core.Service {
	for _, s := range w.byVIP[k.Dst] {
		if s.Matches(k.Proto, k.DstPort) {
			return s
		}
	}
	return nil
}

const (
	// sweepTime is how long a look at every flow takes.
	sweepTime = 2 * time.Second
	// errorsPerTick bounds the ICMP errors that are sent (RFC 1812, §4.3.2.8).
	errorsPerTick = 50
	// resetsPerTick bounds the TCP resets: 10 000 a second of a busy worker. Each is
	// no longer than what it answers, and costs a system call.
	resetsPerTick = 200
	// busyTick and idleTick are the times between two calls of Tick.
	busyTick = 20 * time.Millisecond
	idleTick = 250 * time.Millisecond
)

// Woken implements verdict.Handler: it does what others asked for.
func (w *Worker) Woken() {
	w.beginBatch()
	for n := len(w.inbox); n > 0; n-- {
		(<-w.inbox)()
	}
}

// Tick implements verdict.Handler: it ends idle flows and lets the policies do
// their housekeeping.
func (w *Worker) Tick(now time.Time) (next time.Duration) {
	w.Woken()
	w.beat.Store(int64(w.nowNS))
	w.errQuota, w.rstQuota = errorsPerTick, resetsPerTick
	passed := min(now.Sub(w.swept), sweepTime)
	w.swept = now
	w.table.Sweep(int(int64(w.table.Cap())*int64(passed)/int64(sweepTime))+1, w.now, w.over)
	w.expireHeld()
	w.tracker.expire(now)
	w.settle()
	if now.Sub(w.ticked) >= time.Second {
		w.ticked = now
		w.tickSchedulers()
	}
	if busy := w.busy; !busy {
		return idleTick
	}
	w.busy = false
	return busyTick
}

// tickSchedulers calls those that were ever asked. A pool that has changed is
// for the next packet to take, which may cost its policy milliseconds; of idle
// services one takes it each time, for the old one keeps memory.
func (w *Worker) tickSchedulers() {
	late := false
	for i := range w.views {
		v := &w.views[i]
		if v.scheduler == nil || v.service == nil || v.pool == nil {
			continue
		}
		if p := w.snap.Pools.Of(core.ServiceID(i)); p != nil && p != v.pool && !late {
			late = true
			w.adoptPool(v, p)
		}
		if w.now-v.refreshed < 2000 { // flows came since
			w.refresh(v)
		}
		v.scheduler.Tick(w.nowNS)
	}
}

// settle publishes the state of the flow table, in which some entries are but
// memos of flows that the kernel has.
func (w *Worker) settle() {
	flows := w.table.Len() - w.memos
	w.table.Strict = flows > w.table.Cap()/2
	w.own.Flows.Store(int64(flows))
	w.own.Capacity.Store(int64(w.table.Cap()))
	w.settleFull()
}

// settleFull publishes what the flow table had no room for since the last call: the
// sum goes on when another table, or another worker of this index, takes its place.
func (w *Worker) settleFull() {
	w.own.Evicted.Add(w.table.Evicted)
	w.own.Refused.Add(w.table.Refused)
	w.table.Evicted, w.table.Refused = 0, 0
}

// ended tells the policy of a flow just before its entry is reused.
func (w *Worker) ended(e *flow.Entry) {
	if e.Kernel() { // its end is for the garbage collection to see
		w.memos--
		return
	}
	if !e.Over {
		w.own.Ended(e.Backend)
	} else if !e.Ended && halfClosed(e) {
		w.own.Closing(e.Backend, -1)
	}
	w.Ended(e.Service, core.FlowEnd{
		Backend: e.Backend, Packets: uint64(e.Packets), Bytes: e.Bytes,
		Duration: uint64(e.Seen-e.Created) * uint64(time.Millisecond),
	})
}

// Ended tells a service's policy of a flow that ended. Inside Do.
func (w *Worker) Ended(id core.ServiceID, e core.FlowEnd) {
	if int(id) >= len(w.views) || w.views[id].scheduler == nil || w.pool(id) == nil {
		return
	}
	w.endArg = e
	w.views[id].scheduler.Ended(&w.endArg)
}

// scratch holds the counts of a refresh and a packet being built.
type scratch struct {
	active         []uint32
	packets, bytes []uint64
	packet         []byte
}

// refresh tells a scheduler what all workers have counted.
func (w *Worker) refresh(v *view) {
	v.refreshed = w.now
	n := len(v.pool.Members)
	if n == 0 {
		return
	}
	s := &w.scratch
	if cap(s.active) < n {
		n := 1 << bits.Len(uint(n)) // pools grow one by one
		s.active, s.packets, s.bytes = make([]uint32, n), make([]uint64, n), make([]uint64, n)
	}
	s.active, s.packets, s.bytes = s.active[:n], s.packets[:n], s.bytes[:n]
	for i := range v.pool.Members {
		t := w.Counters.Total(v.pool.Members[i].Handle)
		s.active[i], s.packets[i], s.bytes[i] = uint32(t.Active), t.Packets, t.Bytes
	}
	v.scheduler.Refresh(s.active, s.packets, s.bytes)
}
