package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/core/verdict"
	"github.com/caplance/caplance/e2e/cluster"
)

// queueLength holds all that a drain works off.
const queueLength = 1 << 15

func (r *flowRig) queue() verdict.Config {
	return verdict.Config{Queue: r.cfg.Datapath.FirstQueue, Length: queueLength, Buffer: 128 << 20}
}

// callback shows the packets to h by go-nfqueue's callback.
func (r *flowRig) callback(h verdict.Handler) (stop func() error, err error) {
	return stop, r.lb.Do(func() error {
		p, err := openPlain(r.queue(), h)
		if err == nil {
			stop = p.Close
		}
		return err
	})
}

// loop does so by our verdict loop.
func (r *flowRig) loop(h verdict.Handler) (stop func() error, err error) {
	var q *verdict.Queue
	if err := r.lb.Do(func() (err error) {
		q, err = verdict.Open(r.queue())
		return err
	}); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- verdict.NewLoop(q, h).Run(ctx) }()
	return func() error {
		cancel()
		return errors.Join(<-done, q.Close())
	}, nil
}

// gate counts the packets of a handler, and holds the first one up until it
// is opened.
type gate struct {
	verdict.Handler
	open    chan struct{}
	packets atomic.Uint64
}

func newGate(h verdict.Handler) *gate { return &gate{Handler: h, open: make(chan struct{})} }

func (g *gate) Packet(b []byte, mark uint32) verdict.Verdict {
	<-g.open
	g.packets.Add(1)
	return g.Handler.Packet(b, mark)
}

// underFlood returns how many packets a system answers while more come than it can
// take, per second.
func (r *flowRig) underFlood(ctx context.Context, open func(verdict.Handler) (func() error, error), h verdict.Handler) (float64, error) {
	g := newGate(h)
	close(g.open)
	stop, err := open(g)
	if err != nil {
		return 0, err
	}
	stopFlood := r.flood.start()
	pause(ctx, warmUp)
	packets, sent, begin := g.packets.Load(), r.flood.sent.Load(), time.Now()
	pause(ctx, window)
	packets, sent = g.packets.Load()-packets, r.flood.sent.Load()-sent
	seconds := time.Since(begin).Seconds()
	stopFlood()
	r.offered = float64(sent) / seconds
	return float64(packets) / seconds, errors.Join(stop(), ctx.Err())
}

// drain returns how fast a system works off a full queue, packets per second.
func (r *flowRig) drain(ctx context.Context, open func(verdict.Handler) (func() error, error), h verdict.Handler) (float64, error) {
	g := newGate(h)
	stop, err := open(g)
	if err != nil {
		return 0, err
	}
	packets := r.flood.sent.Load()
	for range queueLength/len(r.flood.buf) - 1 {
		r.flood.batch()
	}
	packets = r.flood.sent.Load() - packets
	begin := time.Now()
	close(g.open)
	err = cluster.Await(ctx, "the queue to be empty", func() error {
		if n := g.packets.Load(); n < packets {
			return fmt.Errorf("%d of %d packets came up", n, packets)
		}
		return nil
	})
	return float64(packets) / time.Since(begin).Seconds(), errors.Join(err, stop())
}
