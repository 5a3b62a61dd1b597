package workers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/flow"
)

// Do runs fn between two batches of a worker and waits for it, not longer
// than OrderTimeout: then it still runs, as soon as the worker comes to it.
func (ws *Set) Do(w int, fn func()) error {
	done := make(chan struct{})
	list := ws.each()
	if w >= len(list) || list[w] == nil {
		fn() // nobody else uses what belongs to it
		return nil
	}
	go ws.order(list[w], func() { fn(); close(done) })
	select {
	case <-done:
		return nil
	case <-list[w].done: // it ended: what it had not come to is done here
		select {
		case <-done:
		default:
			fn()
		}
		return nil
	case <-time.After(OrderTimeout):
		return fmt.Errorf("worker %d does not come to it within %s", w, OrderTimeout)
	}
}

// Alive reports, without an error, that every worker comes to what it is asked for before
// ctx ends.
func (ws *Set) Alive(ctx context.Context) error { return ws.every(ctx, func(*worker) {}) }

// OrderTimeout is how long a worker may take to come to a change.
const OrderTimeout = 5 * time.Second

// order has a worker run fn, as soon as it comes to it.
func (ws *Set) order(w *worker, fn func()) {
	for !w.Path.Do(fn) {
		select {
		case <-w.done:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// every has every worker run fn and waits for them.
func (ws *Set) every(ctx context.Context, fn func(w *worker)) error {
	var wg sync.WaitGroup
	for _, w := range ws.each() {
		if w == nil {
			continue
		}
		done := make(chan struct{})
		go ws.order(w, func() { fn(w); close(done) })
		wg.Go(func() {
			select {
			case <-done:
			case <-ctx.Done():
			case <-w.done:
			}
		})
	}
	wg.Wait()
	return ctx.Err()
}

// Adopt gives the flows of a fast path that is being turned off to the workers,
// which do not find it any more. None of them works on it afterwards.
func (ws *Set) Adopt(b *fastpath.Balancer) {
	ctx, cancel := context.WithTimeout(context.Background(), OrderTimeout)
	defer cancel()
	_ = ws.Sync(ctx)
	byWorker := map[*worker][]fastpath.Flow{}
	list := ws.each()
	err := b.Each(func(f *fastpath.Flow) bool {
		if w := list[ws.FlowQueue(&f.Key)]; !f.Closed && w != nil {
			byWorker[w] = append(byWorker[w], *f)
		}
		return true
	})
	if err != nil {
		byWorker = nil // they are placed anew
	}
	_ = ws.every(ctx, func(w *worker) {
		for _, f := range byWorker[w] {
			w.Path.Adopt(&f.Key, f.Service, f.Backend, f.Established, f.Packets, f.Bytes)
		}
		w.Path.Reclaim()
	})
}

// Give puts the flows that the workers have into a fast path that is being
// turned on.
func (ws *Set) Give(b *fastpath.Balancer) {
	ctx, cancel := context.WithTimeout(context.Background(), OrderTimeout)
	defer cancel()
	_ = ws.every(ctx, func(w *worker) {
		w.Path.OffloadAll(func(e *flow.Entry) bool {
			return b.Put(&fastpath.Flow{
				Key: e.Key, Service: e.Service, Backend: e.Backend, Established: e.State == flow.Established,
				Age: w.Path.Age(e.Created), Idle: w.Path.Age(e.Seen), Packets: uint64(e.Packets), Bytes: e.Bytes,
			})
		})
	})
}

// SetSettings brings what the workers have of their own up to the settings.
func (ws *Set) SetSettings(ctx context.Context, s *core.Settings) error {
	var errs []error
	for _, w := range ws.each() {
		if w != nil {
			errs = append(errs, w.queue.SetLength(s.QueueLength))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, OrderTimeout)
	defer cancel()
	errs = append(errs, ws.every(ctx, func(w *worker) {
		w.Path.Resize(s.Flows / s.Queues)
		w.Sender.SetPort(s.TunnelPort)
	}))
	ws.probing.Lock()
	defer ws.probing.Unlock()
	ws.prober.SetPort(s.TunnelPort)
	return errors.Join(errs...)
}

// Sync waits until every worker has begun another batch.
func (ws *Set) Sync(ctx context.Context) error { return ws.every(ctx, func(*worker) {}) }
