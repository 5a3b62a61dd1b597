// Package load is what clients of an installation do all the time, and counts what
// they lose: new HTTP and TCP connections at a steady rate, established ones that
// talk, are quiet or half-closed, and UDP.
//
//	l, err := load.Start(ctx, installation)
//	tally := l.Measure()
//	tally.Mark() // now it happens
//	…
//	cost := l.Finish(tally)
//	err = l.Renew() // what was lost is opened again
//	l.Stop()
//
// Whatever began while a tally was the current one counts there, however late it ends.
package load

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
)

// What goes on.
const (
	each     = 25 * time.Millisecond // between two new HTTP connections, and two of TCP
	beat     = 50 * time.Millisecond // between two pings of a busy connection, and two datagrams of a socket
	busy     = 24                    // connections
	idle     = 12
	halfOpen = 6
	sockets  = 16 // of UDP
)

// How long clients wait.
var (
	newTimeout = slow.Time(3 * time.Second)  // for a new connection's answer, and a datagram's
	oldTimeout = slow.Time(10 * time.Second) // for that of an established connection

	// Prompt is what takes longer than it is trouble: less than the second after which
	// a lost SYN is sent again, and more than a busy machine's own delays.
	Prompt = slow.Time(900 * time.Millisecond)
)

var vips = [2]netip.Addr{cluster.VIP4, cluster.VIP6}

// Load runs from Start to Stop.
type Load struct {
	c    *cluster.Cluster
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup
	http http.Client

	busy, idle, half []*line  // of the goroutine that calls Start, Renew and Finish; nil: lost
	broken           sync.Map // *line of busy: true
	endUDP           func()   // of the sockets
	ports            int      // that sockets have had

	mu  sync.Mutex
	now *Tally
}

// Start opens what is to be established, and begins.
func Start(ctx context.Context, c *cluster.Cluster) (*Load, error) {
	l := &Load{c: c, now: newTally(), busy: make([]*line, busy), idle: make([]*line, idle), half: make([]*line, halfOpen)}
	l.ctx, l.stop = context.WithCancel(ctx)
	l.http = http.Client{Timeout: newTimeout, Transport: &http.Transport{DisableKeepAlives: true, DialContext: c.Client.Dial}}
	if err := l.Renew(); err != nil {
		l.Stop()
		return nil, err
	}
	l.wg.Go(l.watch)
	l.every(l.request)
	l.every(l.connection)
	return l, nil
}

// Stop ends everything and waits for it.
func (l *Load) Stop() {
	l.stop()
	for _, lines := range [][]*line{l.busy, l.idle, l.half} {
		for _, x := range lines {
			if x != nil {
				x.Close()
			}
		}
	}
	l.wg.Wait()
}

// Measure begins another tally.
func (l *Load) Measure() *Tally {
	t := newTally()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = t
	return t
}

// begin returns the tally that something counts in which begins now; its end calls
// Done of pending.
func (l *Load) begin() *Tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now.pending.Add(1)
	return l.now
}

// Finish ends a tally: it waits for what is under way, has the quiet connections
// talk and the half-closed ones end, and returns what all of that cost.
func (l *Load) Finish(t *Tally) Cost {
	end := time.Now()
	l.Measure()
	t.pending.Wait()
	for i, x := range l.idle {
		if x == nil {
			continue
		}
		if err := x.ping(oldTimeout); err != nil {
			t.lose(x, "idle", err, end)
			l.idle[i] = nil
		}
	}
	for _, b := range l.c.Backends {
		b.Release()
	}
	for i, x := range l.half {
		if x == nil {
			continue
		}
		if err := x.last(oldTimeout); err != nil {
			t.lose(x, "half-closed", err, end)
		}
		l.half[i] = nil
	}
	return t.cost(end)
}

// Renew opens what was lost again, and begins UDP anew. After an error it can be
// called once more.
func (l *Load) Renew() error {
	for i, x := range l.busy {
		if _, broken := l.broken.Load(x); x != nil && !broken {
			continue
		}
		l.broken.Delete(x)
		l.busy[i] = nil
		x, err := l.open(vips[i%2])
		if err != nil {
			return fmt.Errorf("load: %w", err)
		}
		l.busy[i] = x
		l.wg.Go(func() { l.talk(x) })
	}
	for _, kind := range []struct {
		lines []*line
		begin func(*line) error
	}{{l.idle, func(x *line) error { return x.ping(oldTimeout) }}, {l.half, (*line).halfClose}} {
		for i := range kind.lines {
			if kind.lines[i] != nil {
				continue
			}
			x, err := l.open(vips[i%2])
			if err == nil {
				err = kind.begin(x)
			}
			if err != nil {
				return fmt.Errorf("load: %w", err)
			}
			kind.lines[i] = x
		}
	}
	return l.datagrams()
}

// Calm waits until nothing was in trouble for a while.
func (l *Load) Calm(ctx context.Context) error {
	return cluster.Await(ctx, "clients to be well", func() error {
		t := l.Measure()
		select {
		case <-time.After(Prompt):
		case <-ctx.Done():
			return ctx.Err()
		}
		l.Measure()
		t.pending.Wait()
		if c := t.cost(time.Now()); c.Troubles > 0 || c.Opened == 0 {
			return fmt.Errorf("%+v %v", c, c.Why)
		}
		return nil
	})
}

// watch notes when this program stands still.
func (l *Load) watch() {
	const each = 10 * time.Millisecond
	tick := time.NewTicker(each)
	defer tick.Stop()
	for last := time.Now(); ; last = time.Now() {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
		}
		if late := time.Since(last) - each; late > each {
			t := l.begin()
			t.jolt(late)
			t.pending.Done()
		}
	}
}

// every opens connections, one after the other has begun.
func (l *Load) every(open func(n int, t *Tally)) {
	l.wg.Go(func() {
		tick := time.NewTicker(each)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-l.ctx.Done():
				return
			case <-tick.C:
			}
			t := l.begin()
			l.wg.Go(func() {
				defer t.pending.Done()
				open(n, t)
			})
		}
	})
}
