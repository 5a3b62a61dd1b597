// Package replay asks another policy about recorded flows: what would it have
// done?
//
//	result, err := replay.Run(ctx, policy, reader, replay.Options{})
//
// The other policy decides where a flow goes and so changes what comes after:
// its open flows are counted where it put them. Which of a backend's flows
// ended the recording does not say; the replay takes the oldest.
package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/recording"
	"github.com/caplance/caplance/plugins/workbench/trial"
)

// Options say how to replay.
type Options struct {
	Config []byte // policy_config as JSON; nil is none
}

// Result is the comparison.
type Result struct {
	Service  string  `json:"service"`
	Recorded string  `json:"recorded"` // the policy that was live
	Policy   string  `json:"policy"`   // the one that was asked now
	Flows    uint64  `json:"flows"`
	Differ   uint64  `json:"differ"` // flows that it would have put elsewhere
	Share    float64 `json:"share"`  // of these
	Lost     uint64  `json:"lost"`   // entries that the recording lacks
	Cut      bool    `json:"cut"`    // the recording was interrupted
	Backends []Shift `json:"backends"`
}

// Shift is what changes for one backend, in flows.
type Shift struct {
	Name   string `json:"name"`
	Was    uint64 `json:"was"`
	Now    uint64 `json:"now"`
	Stayed uint64 `json:"stayed"` // got by both
}

// refresh is how often the workers' counters are made equal, ns.
const refresh = 20e6

// maxMemory bounds what the instances may take: each worker has one, and how many
// workers there are the recording says.
const maxMemory = 1 << 30

// replay is one in progress.
type replay struct {
	ctx       context.Context
	policy    *host.Policy
	in        *recording.Reader
	opt       *Options
	pools     map[int]*core.Pool // the recording's that a worker has, by number, with their tables
	workers   []*worker          // nil until it has a flow
	active    map[core.Handle]*load
	shifts    map[string]*Shift
	result    *Result
	memory    uint64 // of all instances, in bytes
	refreshed uint64 // when the counters were made equal last
}

// worker is one of the balancer's.
type worker struct {
	*host.Scheduler
	pool int                          // number of the one it has
	open map[core.Handle][]openedFlow // by the recording's backend, oldest first
}

// openedFlow is where the replay put a flow.
type openedFlow struct {
	at core.Handle
	ok bool // false: nowhere
}

// load is what a backend carries in the replay.
type load struct {
	active         uint32
	packets, bytes uint64
}

// Run replays a recording to its end.
//
// Errors: the recording is damaged; the policy does not start, or it failed;
// the instances of all workers take more than a GiB.
func Run(ctx context.Context, policy *host.Policy, in *recording.Reader, opt Options) (*Result, error) {
	s := newReplay(ctx, policy, in, &opt)
	defer s.close()
	if err := s.play(); err != nil {
		return nil, err
	}
	s.finish()
	return s.result, nil
}

func newReplay(ctx context.Context, policy *host.Policy, in *recording.Reader, opt *Options) *replay {
	h := in.Header
	return &replay{
		ctx: ctx, policy: policy, in: in, opt: opt,
		pools: map[int]*core.Pool{}, workers: make([]*worker, h.Workers), active: map[core.Handle]*load{}, shifts: map[string]*Shift{},
		result: &Result{Service: h.Service, Recorded: h.Policy, Policy: policy.Name()},
	}
}

func (s *replay) close() {
	for _, w := range s.workers {
		if w != nil {
			w.Close()
		}
	}
}

func (s *replay) play() error {
	for {
		var e recording.Entry
		if err := s.in.Next(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if e.Ended {
			s.end(&e)
			continue
		}
		if err := s.flow(&e); err != nil {
			return err
		}
		s.result.Flows++
		if s.result.Flows%4096 == 0 && s.ctx.Err() != nil {
			return fmt.Errorf("replay stopped after %d flows: %w", s.result.Flows, context.Cause(s.ctx))
		}
	}
}

// flow asks about a flow, as if it were the first time.
func (s *replay) flow(e *recording.Entry) error {
	if err := s.adopt(e); err != nil {
		return err
	}
	if e.Flow.Now-s.refreshed >= refresh && e.Flow.Now > s.refreshed {
		s.refreshed = e.Flow.Now
		s.refresh()
	}
	w, pool := s.workers[e.Worker], s.pools[e.Pool]
	index, _ := w.Pick(&e.Flow)
	if err := w.Broken(); err != nil {
		return fmt.Errorf("flow %d: %w", s.result.Flows+1, err)
	}
	var put openedFlow
	if index >= 0 {
		put = openedFlow{pool.Members[index].Handle, true}
		s.load(put.at).active++
	}
	if e.Index >= 0 {
		was := s.in.Pools[e.Pool].Handles[e.Index]
		w.open[was] = append(w.open[was], put)
	}
	if index != e.Index {
		s.result.Differ++
	}
	s.count(pool, e.Index, index)
	return nil
}

// adopt gives a worker the pool that it had then; the first one starts it. A
// recording may name many workers and pools that see no flow: they cost nothing.
func (s *replay) adopt(e *recording.Entry) error {
	w := s.workers[e.Worker]
	if w != nil && w.pool == e.Pool {
		return nil
	}
	pool, err := s.pool(e.Pool)
	if err != nil {
		return err
	}
	if w == nil {
		sched, err := s.policy.NewScheduler(s.ctx, s.config(e.Worker))
		if err != nil {
			return err
		}
		w = &worker{Scheduler: sched, open: map[core.Handle][]openedFlow{}}
		s.workers[e.Worker] = w
		if s.memory += uint64(sched.MemorySize()); s.memory > maxMemory {
			return fmt.Errorf("instances of %q for the recording's %d workers take more than %d MiB", s.policy.Name(), s.in.Header.Workers, maxMemory>>20)
		}
	}
	w.pool = e.Pool
	w.SetPool(pool)
	s.forget()
	if err := w.Broken(); err != nil {
		return fmt.Errorf("pool %d: %w", e.Pool, err)
	}
	return nil
}

func (s *replay) config(worker int) host.Config {
	h := s.in.Header
	return host.Config{Worker: worker, Workers: h.Workers, Seed: h.Seed, ConfigJSON: s.opt.Config}
}

// pool returns a pool of the recording with its tables.
func (s *replay) pool(number int) (*core.Pool, error) {
	if pool := s.pools[number]; pool != nil {
		return pool, nil
	}
	pool := s.in.Pools[number].Pool
	pool = pool.WithLookup(core.NewLookup(pool.Candidates()))
	if s.policy.HasTable() && pool.Eligible > 0 {
		t, err := s.policy.BuildTable(s.ctx, s.config(0), pool)
		if err != nil {
			return nil, err
		}
		pool = pool.WithTable(t)
	}
	s.pools[number] = pool
	return pool, nil
}

// forget gives up the pools that no worker has: their tables are 256 KiB and more.
func (s *replay) forget() {
	for number := range s.pools {
		if !slices.ContainsFunc(s.workers, func(w *worker) bool { return w != nil && w.pool == number }) {
			delete(s.pools, number)
		}
	}
}

// end ends the oldest flow that the backend had then, where it is now. Ends of
// flows that are older than the recording are of no use.
func (s *replay) end(e *recording.Entry) {
	w := s.workers[e.Worker]
	if w == nil || len(w.open[e.End.Backend]) == 0 {
		return
	}
	queue := w.open[e.End.Backend]
	first := queue[0]
	w.open[e.End.Backend] = queue[1:]
	if !first.ok {
		return
	}
	l := s.load(first.at)
	l.active--
	l.packets += e.End.Packets
	l.bytes += e.End.Bytes
	end := e.End
	end.Backend = first.at
	w.Ended(&end)
}

func (s *replay) load(h core.Handle) *load {
	l := s.active[h]
	if l == nil {
		l = new(load)
		s.active[h] = l
	}
	return l
}

// refresh tells every worker what all have counted.
func (s *replay) refresh() {
	for _, w := range s.workers {
		if w == nil {
			continue
		}
		members := s.pools[w.pool].Members
		active, packets, bytes := make([]uint32, len(members)), make([]uint64, len(members)), make([]uint64, len(members))
		for i := range members {
			l := s.load(members[i].Handle)
			active[i], packets[i], bytes[i] = l.active, l.packets, l.bytes
		}
		w.Refresh(active, packets, bytes)
	}
}

// count adds a flow to the backend that had it and the one that would have.
func (s *replay) count(pool *core.Pool, was, now int) {
	at := func(i int) *Shift {
		name := "(none)"
		if i >= 0 {
			name = pool.Members[i].Name
		}
		if s.shifts[name] == nil {
			s.shifts[name] = &Shift{Name: name}
		}
		return s.shifts[name]
	}
	at(was).Was++
	at(now).Now++
	if was == now {
		at(was).Stayed++
	}
}

func (s *replay) finish() {
	r := s.result
	r.Share = float64(r.Differ) / float64(max(r.Flows, 1))
	r.Lost, r.Cut = s.in.Lost, s.in.Cut
	r.Backends = []Shift{}
	for _, shift := range s.shifts {
		r.Backends = append(r.Backends, *shift)
	}
	slices.SortFunc(r.Backends, func(a, b Shift) int { return cmp.Or(trial.Natural(a.Name, b.Name), cmp.Compare(a.Name, b.Name)) })
}
