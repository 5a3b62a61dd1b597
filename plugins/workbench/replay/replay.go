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
	"github.com/caplance/caplance/plugins/workbench/record"
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

// stage is a replay under way.
type stage struct {
	ctx     context.Context
	policy  *host.Policy
	in      *record.Reader
	opt     *Options
	pools   []*core.Pool // the recording's, with the policy's tables
	workers []*worker
	active  map[core.Handle]*load
	shifts  map[string]*Shift
	result  *Result
	fresh   uint64 // when the counters were made equal last
}

// worker is one of the balancer's.
type worker struct {
	*host.Scheduler
	pool int                          // number of the one it has, -1 for none
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
// Errors: the recording is damaged; the policy does not start, or it failed.
func Run(ctx context.Context, policy *host.Policy, in *record.Reader, opt Options) (*Result, error) {
	h := in.Header
	s := &stage{
		ctx: ctx, policy: policy, in: in, opt: &opt, active: map[core.Handle]*load{}, shifts: map[string]*Shift{},
		result: &Result{Service: h.Service, Recorded: h.Policy, Policy: policy.Name()},
	}
	defer func() {
		for _, w := range s.workers {
			w.Close()
		}
	}()
	for i := range h.Workers {
		sched, err := policy.NewScheduler(ctx, host.Config{Worker: i, Workers: h.Workers, Seed: h.Seed, ConfigJSON: opt.Config})
		if err != nil {
			return nil, err
		}
		s.workers = append(s.workers, &worker{sched, -1, map[core.Handle][]openedFlow{}})
	}
	if err := s.play(); err != nil {
		return nil, err
	}
	s.finish()
	return s.result, nil
}

func (s *stage) play() error {
	for {
		var e record.Entry
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
func (s *stage) flow(e *record.Entry) error {
	if err := s.adopt(e); err != nil {
		return err
	}
	if e.Flow.Now-s.fresh >= refresh && e.Flow.Now > s.fresh {
		s.fresh = e.Flow.Now
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

// adopt gives a worker the pool that it had then.
func (s *stage) adopt(e *record.Entry) error {
	w := s.workers[e.Worker]
	if w.pool == e.Pool {
		return nil
	}
	w.pool = e.Pool
	for len(s.pools) <= e.Pool {
		pool := s.in.Pools[len(s.pools)].Pool
		if s.policy.HasTable() && pool.Eligible > 0 {
			t, err := s.policy.BuildTable(s.ctx, host.Config{Workers: 1, Seed: s.in.Header.Seed, ConfigJSON: s.opt.Config}, pool)
			if err != nil {
				return err
			}
			pool = pool.WithTable(t)
		}
		s.pools = append(s.pools, pool)
	}
	w.SetPool(s.pools[e.Pool])
	if err := w.Broken(); err != nil {
		return fmt.Errorf("pool %d: %w", e.Pool, err)
	}
	return nil
}

// end ends the oldest flow that the backend had then, where it is now. Ends of
// flows that are older than the recording are of no use.
func (s *stage) end(e *record.Entry) {
	w := s.workers[e.Worker]
	queue := w.open[e.End.Backend]
	if len(queue) == 0 {
		return
	}
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

func (s *stage) load(h core.Handle) *load {
	l := s.active[h]
	if l == nil {
		l = new(load)
		s.active[h] = l
	}
	return l
}

// refresh tells every worker what all have counted.
func (s *stage) refresh() {
	for _, w := range s.workers {
		if w.pool < 0 {
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

// count books a flow with the backend that had it and the one that would have.
func (s *stage) count(pool *core.Pool, was, now int) {
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

func (s *stage) finish() {
	r := s.result
	r.Share = float64(r.Differ) / float64(max(r.Flows, 1))
	r.Lost, r.Cut = s.in.Lost, s.in.Cut
	r.Backends = []Shift{}
	for _, shift := range s.shifts {
		r.Backends = append(r.Backends, *shift)
	}
	slices.SortFunc(r.Backends, func(a, b Shift) int { return cmp.Or(trial.Natural(a.Name, b.Name), cmp.Compare(a.Name, b.Name)) })
}
