package workers

import (
	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/fastpath"
)

// ending is a flow's end as its service's policy is told of it.
type ending struct {
	service core.ServiceID
	core.FlowEnd
	expired bool
	key     core.FlowKey
	ack     uint32
}

// Endings collects ends of flows for the workers, whose policies are to hear of
// them.
type Endings struct {
	workers  *Set
	byWorker [][]ending
}

// Endings returns an empty collection.
func (ws *Set) Endings() *Endings { return &Endings{workers: ws} }

// endBatch is how many ends a worker tells its policies between packets.
const endBatch = 1024

// Add collects the end of a flow that the kernel had.
func (e *Endings) Add(f *fastpath.Flow) {
	w := e.workers.FlowQueue(&f.Key)
	for w >= len(e.byWorker) { // queues were added meanwhile
		e.byWorker = append(e.byWorker, nil)
	}
	e.byWorker[w] = append(e.byWorker[w], ending{f.Service, core.FlowEnd{
		Backend: f.Backend, Packets: f.Packets, Bytes: f.Bytes, Duration: uint64(max(f.Age-f.Idle, 0)),
	}, f.Expired, f.Key, f.Ack})
	if len(e.byWorker[w]) == endBatch {
		e.tellOne(w)
	}
}

// Tell gives the workers what is left.
func (e *Endings) Tell() {
	for w := range e.byWorker {
		e.tellOne(w)
	}
}

// tellOne gives a worker what was collected. One that is too busy to listen
// does without: active flows are counted all the same.
func (e *Endings) tellOne(w int) {
	some := e.byWorker[w]
	e.byWorker[w] = nil
	if len(some) == 0 {
		return
	}
	list := e.workers.each()
	if w >= len(list) || list[w] == nil {
		return
	}
	path := list[w].Path
	path.Do(func() {
		for i := range some {
			if some[i].expired {
				path.Expired(some[i].service, &some[i].key, some[i].ack)
			}
			path.Ended(some[i].service, some[i].FlowEnd)
		}
	})
}
