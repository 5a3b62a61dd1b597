package offload

import (
	"context"
	"slices"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/counters"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/workers"
)

// How often the kernel's flows are counted, and the closed and the silent ones
// ended. A collection of many flows takes longer; it gets a part of one CPU at
// most, a smaller one while no packet comes.
const (
	collectPace  = 500 * time.Millisecond
	collectShare = 20
	idleShare    = 100
)

// collector is the state of the garbage collection between two rounds.
type collector struct {
	f       *FastPath
	workers *workers.Set
	traffic uint64 // packets that the programs have seen, and flows that they were given
	flows   int    // that the last round left
	strict  bool   // the table fills

	services *core.ServiceSet // at the last round
	recheck  int              // rounds in which all flows' clients are looked at
}

// recheckRounds is more than one: a worker may give the kernel a flow just before it
// knows of a new list of clients, where the first round has been already.
const recheckRounds = 2

// denied returns what tells whether a flow's client is not taken any more, nil while
// the lists are as they were: looking takes a round some 100 ns a flow.
func (c *collector) denied(s *core.ServiceSet) func(*fastpath.Flow) bool {
	if c.services != s {
		c.services, c.recheck = s, recheckRounds
	}
	if c.recheck == 0 || !slices.ContainsFunc(s.List, func(svc *core.Service) bool { return svc.Clients != nil }) {
		return nil
	}
	return func(f *fastpath.Flow) bool {
		svc := s.Get(f.Service)
		return svc != nil && !svc.Clients.Allows(&f.Key.Src)
	}
}

// takeFlows gives the workers what a fast path has that is being turned off.
func (f *FastPath) takeFlows(ws *workers.Set, b *fastpath.Balancer) {
	if err := f.totals(b); err != nil {
		f.Log.Warn("what the kernel forwarded last is not counted", "err", err)
	}
	ws.Adopt(b)
	f.Counters.KernelGone()
}

// giveFlows gives a fast path that is being turned on what the workers have.
func (f *FastPath) giveFlows(b *fastpath.Balancer) {
	if ws := f.workers.Load(); ws != nil {
		ws.Give(b)
	}
}

// Collect counts the kernel's flows, and ends those that are over, until ctx
// ends.
func (f *FastPath) Collect(ctx context.Context) error {
	c := &collector{f: f, workers: f.workers.Load()}
	next := time.NewTimer(collectPace)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.f.changed: // clients may be denied by now
		case <-next.C:
		}
		begin := time.Now()
		share := c.round()
		next.Reset(max(collectPace, share*time.Since(begin)))
	}
}

// round does one collection if there may be something to collect, and returns
// how many times as long as it took the next one has to wait.
func (c *collector) round() (share time.Duration) {
	defer c.f.Hold()()
	begin := time.Now()
	b := c.f.Kernel()
	if b == nil || !c.f.Snapshot().Complete {
		return collectShare // before, nobody knows whose the flows are
	}
	if !b.Attached() {
		c.f.counted.Store(&begin) // no program makes flows
		return collectShare
	}
	traffic := c.seen(b)
	idle := traffic == c.traffic
	c.traffic = traffic
	if idle && c.flows == 0 {
		c.f.counted.Store(&begin)
		return collectShare
	}
	if !idle {
		if err := c.f.totals(b); err != nil {
			c.f.Log.Warn("what the kernel forwards is not counted", "err", err)
		}
	}
	if err := c.gc(b); err != nil {
		c.f.Log.Warn("flows in the kernel not counted", "err", err)
	} else {
		c.f.counted.Store(&begin)
	}
	c.f.rounds.Observe(time.Since(begin))
	if idle {
		return idleShare
	}
	return collectShare
}

// seen returns what changes while there is something to collect: also where no
// program sees the packets of the flows that were offloaded, because they come by a
// link without one.
func (c *collector) seen(b *fastpath.Balancer) uint64 {
	n := b.Given()
	counters := map[string]uint64{}
	b.Counters(counters)
	for _, v := range counters {
		n += v
	}
	return n
}

// totals notes what the kernel forwarded to each member.
func (f *FastPath) totals(b *fastpath.Balancer) error {
	f.counting.Lock()
	defer f.counting.Unlock()
	sums, err := b.Sums()
	if err != nil {
		return err
	}
	f.Snapshot().Pools.Each(func(p *core.Pool) {
		for i := range p.Members {
			h := p.Members[i].Handle
			f.Counters.Kernel(p.Service, h, counters.Done(sums.Of(h)))
		}
	})
	return nil
}

// Count has the counters know what the kernel has done until now. The caller holds the
// fast path.
func (f *FastPath) Count() {
	if b := f.Kernel(); b != nil && b.Attached() && f.Snapshot().Complete {
		_ = f.totals(b) // the next collection tells
	}
}

func (c *collector) gc(b *fastpath.Balancer) error {
	s := c.f.Snapshot()
	offloaded := map[core.Handle]int64{}
	s.Pools.Each(func(p *core.Pool) {
		for i := range p.Members {
			h := p.Members[i].Handle
			offloaded[h] = c.f.Counters.Offloaded(h)
		}
	})
	ends := c.workers.Endings()
	timeouts := s.Timeouts()
	if c.strict { // who has sent FIN gives way first
		timeouts.Each(func(t *core.Timeouts) { t.TCPHalfClosed = min(t.TCPHalfClosed, t.TCPFin) })
	}
	found, err := b.GC(timeouts, c.judge, c.denied(s.Services), ends.Add)
	if err != nil {
		return err
	}
	c.recheck = max(c.recheck-1, 0)
	if err := c.setStrict(b, found.Flows); err != nil {
		return err
	}
	ends.Tell()
	for h, before := range offloaded {
		c.f.Counters.Collected(h, found.Active(h), found.Closing(h), before)
	}
	c.f.Counters.InKernel(found.Flows)
	c.flows = found.Flows
	c.f.found.Store(found)
	return nil
}

// judge reports whether a flow of a backend that tells of its connections is over.
func (c *collector) judge(f *fastpath.Flow, silent bool) bool {
	if c.f.Liveness == nil {
		return silent
	}
	return c.f.Liveness.Judge(c.f.Liveness.SignsOf(f, silent, c.strict))
}

// setStrict keeps what nobody has proven out of a table that fills.
func (c *collector) setStrict(b *fastpath.Balancer, flows int) error {
	room := b.FlowsFit()
	strict := c.f.Liveness != nil && (flows > room/2 || c.strict && flows > room/3)
	if strict == c.strict {
		return nil
	}
	c.strict = strict
	return b.SetStrict(strict)
}
