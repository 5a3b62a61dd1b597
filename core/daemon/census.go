package daemon

import (
	"context"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/fastpath"
)

// censusPace is how often the kernel's flows are counted, and the closed and
// the silent ones ended. A census of many flows takes longer; it gets this part
// of one CPU at most.
const (
	censusPace  = 500 * time.Millisecond
	censusShare = 20
)

// census counts the kernel's flows until ctx ends.
func (s *Server) census(ctx context.Context) error {
	if s.kernel == nil {
		return nil
	}
	next := time.NewTimer(censusPace)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
		}
		begin := time.Now()
		if s.pools.attached.Load() { // before, nobody knows whose the flows are
			if err := s.takeCensus(); err != nil {
				s.log.Warn("flows in the kernel not counted", "err", err)
			}
		}
		next.Reset(max(censusPace, censusShare*time.Since(begin)))
	}
}

// member is one membership in one service.
type member struct {
	service uint16
	handle  core.Handle
}

func (s *Server) takeCensus() error {
	handed := map[member]int64{}
	for _, svc := range s.cfg.Services {
		for _, m := range s.pools.out.Of(svc.Index).Members {
			handed[member{svc.Index, m.Handle}] = s.ledger.Handed(svc.Index, m.Handle)
		}
	}
	ends := endings{server: s, byWorker: make([][]ending, len(s.workers))}
	c, err := s.kernel.Take(func(f *fastpath.Flow) { ends.add(s.flowQueue(&f.Key), f) })
	if err != nil {
		return err
	}
	ends.tell()
	for m, before := range handed {
		s.ledger.Census(m.service, m.handle, c.Active(m.service, m.handle), before)
	}
	s.ledger.InKernel(c.Flows)
	return nil
}

// ending is a flow's end as its service's policy is told of it.
type ending struct {
	service uint16
	core.FlowEnd
}

// endings collects ends for the workers, whose policies are to hear of them.
type endings struct {
	server   *Server
	byWorker [][]ending
}

// endBatch is how many ends a worker tells its policies between packets.
const endBatch = 1024

func (e *endings) add(worker int, f *fastpath.Flow) {
	e.byWorker[worker] = append(e.byWorker[worker], ending{f.Service, core.FlowEnd{
		Backend: f.Backend, Packets: f.Packets, Bytes: f.Bytes, Duration: uint64(max(f.Age-f.Idle, 0)),
	}})
	if len(e.byWorker[worker]) == endBatch {
		e.tellOne(worker)
	}
}

func (e *endings) tell() {
	for w := range e.byWorker {
		e.tellOne(w)
	}
}

// tellOne gives a worker what was collected. One that is too busy to listen
// does without: active flows are counted all the same.
func (e *endings) tellOne(worker int) {
	some := e.byWorker[worker]
	e.byWorker[worker] = nil
	if len(some) == 0 {
		return
	}
	path := e.server.workers[worker].path
	path.Do(func() {
		for i := range some {
			path.Ended(some[i].service, some[i].FlowEnd)
		}
	})
}
