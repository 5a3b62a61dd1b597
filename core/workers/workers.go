// Package workers runs the packet path: for each NFQUEUE queue a loop that takes
// packets off it, a worker that forwards them, and its sockets. Queues can be
// added and taken away while packets come.
//
//	ws, err := workers.Open(cfg, capture)
//	failed, stop := ws.Run(ctx)
//	err = ws.Resize(ctx, settings, capture) // before the rules lead to other queues
package workers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/counters"
	"github.com/caplance/caplance/core/datapath"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/forward"
	"github.com/caplance/caplance/core/ruleset"
	"github.com/caplance/caplance/core/status"
	"github.com/caplance/caplance/core/undo"
	"github.com/caplance/caplance/core/verdict"
)

// Config is what workers are made with.
type Config struct {
	Snapshot  func() *core.Snapshot
	Counters  *counters.Set
	Scheduler func(worker int) func(*core.Service) datapath.Scheduler
	// Grow starts every policy for this many workers.
	Grow   func(ctx context.Context, workers int) error
	Kernel func() *fastpath.Balancer // the fast path, nil while it is off
	Truth  datapath.Truth            // nil: backends tell nothing of their connections
}

// Set is the queues with all that works on them. Their indices are stable: a
// queue that is not wanted any more keeps its worker until its flows are over,
// and one that is wanted again gets it back.
type Set struct {
	Config
	limiter *datapath.Limiter
	seed    uint64 // of the flow tables' hash, the same for all
	list    atomic.Pointer[[]*worker]
	spread  atomic.Pointer[spread] // the kernel's, of flows over queues
	moving  atomic.Bool            // the queues have changed, and flows are where others own them

	running context.Context // of the loops
	cancel  context.CancelFunc
	group   sync.WaitGroup
	failed  chan error

	counting sync.Mutex        // guards what follows, and that a worker leaves list
	gone     map[string]uint64 // what workers counted that are gone
	leaving  []*worker         // out of list, not among gone yet

	probing sync.Mutex
	prober  *forward.Sender
}

// worker is one queue's worker with what it holds open.
type worker struct {
	status.Worker
	queue  *verdict.Queue
	closes undo.Stack
	cancel context.CancelFunc // ends its loop
	done   chan struct{}
}

// spread says which worker owns a flow.
type spread struct {
	capture *ruleset.Capture
	workers []int // by queue, from the first one on
}

func (s *spread) owner(k *core.FlowKey) int { return s.workers[s.capture.FlowQueue(k)] }

// FlowQueue returns which worker owns a flow.
func (ws *Set) FlowQueue(k *core.FlowKey) int { return ws.spread.Load().owner(k) }

// each returns the workers by index, nil where one has ended.
func (ws *Set) each() []*worker { return *ws.list.Load() }

// All returns the workers that there are.
func (ws *Set) All() (out []*status.Worker) {
	for _, w := range ws.each() {
		if w != nil {
			out = append(out, &w.Worker)
		}
	}
	return out
}

// queueBuffer is the receive buffer of each queue's socket, bytes.
const queueBuffer = 32 << 20

// Open binds the queues that are captured to and makes their workers.
func Open(cfg Config, capture *ruleset.Capture) (_ *Set, err error) {
	ws := &Set{Config: cfg, seed: rand.Uint64(), limiter: datapath.NewLimiter(rand.Uint64()), failed: make(chan error, 1), gone: map[string]uint64{}}
	ws.list.Store(&[]*worker{})
	s := cfg.Snapshot()
	if ws.prober, err = forward.Open(s.Settings.TunnelPort); err != nil {
		return nil, err
	}
	next, err := ws.open(s.Settings, capture)
	if err != nil {
		return nil, errors.Join(err, ws.Close())
	}
	ws.spread.Store(next)
	ws.connect()
	return ws, nil
}

// open opens the queues of the settings that are not open yet and returns how
// flows are spread over them.
func (ws *Set) open(s *core.Settings, capture *ruleset.Capture) (*spread, error) {
	list := slices.Clone(ws.each())
	next := &spread{capture: capture}
	var opened []*worker
	for i := range s.Queues {
		number := s.FirstQueue + uint16(i)
		at := slices.IndexFunc(list, func(w *worker) bool { return w != nil && w.Queue == number })
		if at < 0 {
			if at = slices.Index(list, nil); at < 0 {
				list, at = append(list, nil), len(list)
			}
			w, err := ws.openOne(at, number, s)
			if err != nil {
				for _, w := range opened {
					err = errors.Join(err, w.closes.Undo())
				}
				return nil, err
			}
			opened, list[at] = append(opened, w), w
		}
		next.workers = append(next.workers, at)
	}
	ws.list.Store(&list)
	return next, nil
}

func (ws *Set) openOne(index int, number uint16, s *core.Settings) (_ *worker, err error) {
	w := &worker{done: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.closes.Undo())
		}
	}()
	w.Queue = number
	if w.Sender, err = forward.Open(s.TunnelPort); err != nil {
		return nil, err
	}
	w.closes.Add(w.Sender.Close)
	raw, err := forward.OpenRaw()
	if err != nil {
		return nil, err
	}
	w.closes.Add(raw.Close)
	if w.queue, err = verdict.Open(verdict.Config{Queue: number, Length: s.QueueLength, Buffer: queueBuffer}); err != nil {
		return nil, err
	}
	w.closes.Add(w.queue.Close)
	ws.Counters.Grow(index + 1)
	w.Path = datapath.NewWorker(datapath.Config{
		Index: index, Snapshot: ws.Snapshot, Scheduler: ws.Scheduler(index), Sender: w.Sender, Errors: raw,
		Offloader: &offloader{kernel: ws.Kernel}, Flows: s.Flows / s.Queues, FlowQueue: ws.FlowQueue, Moving: ws.moving.Load,
		Counters: ws.Counters, Truth: ws.Truth, Limiter: ws.limiter, Seed: ws.seed,
	})
	w.Loop = verdict.NewLoop(w.queue, w.Path)
	return w, nil
}

// connect introduces the workers to each other, before they run.
func (ws *Set) connect() {
	peers := ws.peers()
	for _, w := range ws.each() {
		w.Path.Connect(peers, w.Loop.Wake)
	}
}

func (ws *Set) peers() []*datapath.Worker {
	list := ws.each()
	out := make([]*datapath.Worker, len(list))
	for i, w := range list {
		if w != nil {
			out[i] = w.Path
		}
	}
	return out
}

// Run runs the loops until stop is called: they outlive ctx until nothing sends
// them packets any more.
func (ws *Set) Run(ctx context.Context) (failed <-chan error, stop func() error) {
	ws.running, ws.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for _, w := range ws.each() {
		ws.start(w)
	}
	return ws.failed, func() error {
		ws.cancel()
		ws.group.Wait()
		return nil
	}
}

func (ws *Set) start(w *worker) {
	ctx, cancel := context.WithCancel(ws.running)
	w.cancel = cancel
	ws.group.Go(func() {
		defer close(w.done)
		defer cancel()
		if err := w.Loop.Run(ctx); err != nil {
			select {
			case ws.failed <- fmt.Errorf("workers: %w", err):
			default:
			}
		}
	})
}

// Close closes what the workers hold open. Their loops have ended.
func (ws *Set) Close() error {
	var errs []error
	for _, w := range ws.each() {
		if w != nil {
			errs = append(errs, w.closes.Undo())
		}
	}
	return errors.Join(append(errs, ws.prober.Close())...)
}

// Resize opens the queues that the settings want, before the rules lead there.
// Flows that another worker owns from now on stay where they are: packets are
// steered to them.
func (ws *Set) Resize(ctx context.Context, s *core.Settings, capture *ruleset.Capture) error {
	was := ws.spread.Load()
	if was.capture.FirstQueue == capture.FirstQueue && was.capture.Queues == capture.Queues {
		return nil
	}
	before := len(ws.each())
	if err := ws.Grow(ctx, before+s.Queues); err != nil {
		return err
	}
	known := slices.Clone(ws.each())
	next, err := ws.open(s, capture)
	if err != nil {
		return err
	}
	peers := ws.peers()
	for i, w := range ws.each() {
		switch {
		case w == nil:
		case i < len(known) && known[i] == w:
			ws.order(w, func() { w.Path.Connect(peers, w.Loop.Wake) })
		default:
			w.Path.Connect(peers, w.Loop.Wake)
			ws.start(w)
		}
	}
	ws.moving.Store(true)
	ws.spread.Store(next)
	return nil
}

// Retire ends the workers whose queues are not wanted any more, once no flow is
// where another worker owns it.
func (ws *Set) Retire(ctx context.Context) error {
	if !ws.moving.Load() {
		return nil
	}
	var misplaced atomic.Int64
	if err := ws.every(ctx, func(w *worker) { misplaced.Add(int64(w.Path.Misplaced())) }); err != nil || misplaced.Load() > 0 {
		return nil // later
	}
	ws.moving.Store(false)
	list := slices.Clone(ws.each())
	var over []*worker
	for i, w := range list {
		if w != nil && !slices.Contains(ws.spread.Load().workers, i) {
			over, list[i] = append(over, w), nil
			ws.Counters.Worker(i).Capacity.Store(0)
		}
	}
	ws.counting.Lock()
	ws.leaving = over
	ws.list.Store(&list)
	ws.counting.Unlock()
	var errs []error
	for _, w := range over {
		w.cancel()
		<-w.done
		errs = append(errs, w.closes.Undo())
	}
	ws.counting.Lock()
	defer ws.counting.Unlock()
	for _, w := range over {
		w.AddTo(ws.gone)
	}
	ws.leaving = nil
	return errors.Join(errs...)
}

// AddTo adds what workers have counted to a map by name, also those that are gone.
func (ws *Set) AddTo(m map[string]uint64) {
	ws.counting.Lock()
	defer ws.counting.Unlock()
	for name, n := range ws.gone {
		m[name] += n
	}
	for _, w := range slices.Concat(ws.each(), ws.leaving) {
		if w != nil {
			w.AddTo(m)
		}
	}
}

// Probe sends one of the registry's probes.
func (ws *Set) Probe(to netip.Addr, datagram []byte) error {
	ws.probing.Lock()
	defer ws.probing.Unlock()
	before := ws.prober.Packets.Load()
	ws.prober.Tunnel(to, 0xc000|uint16(rand.Uint32()), false, datagram)
	ws.prober.Flush()
	if ws.prober.Packets.Load() == before {
		return fmt.Errorf("tunnel to %v: probe not sent: no route, or the datagram is too long", to)
	}
	return nil
}
