package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// pingTimeout is what a ping may take on a busy machine where nothing is lost.
const pingTimeout = 5 * time.Second

// pulse pings connections all the time.
type pulse struct {
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	pings   int
	longest time.Duration
	broken  []error
}

// startPulse pings each line at intervals until end is called. A line that does
// not answer within limit is broken.
func startPulse(t testing.TB, lines []*line, every, limit time.Duration) *pulse {
	ctx, cancel := context.WithCancel(t.Context())
	p := &pulse{stop: cancel}
	for _, l := range lines {
		p.wg.Go(func() { p.keep(ctx, l, every, limit) })
	}
	t.Cleanup(p.end)
	return p
}

func (p *pulse) keep(ctx context.Context, l *line, every, limit time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for ctx.Err() == nil {
		begin := time.Now()
		err := l.ping(limit)
		p.note(time.Since(begin), err)
		if err != nil {
			return
		}
		<-tick.C
	}
}

func (p *pulse) note(took time.Duration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pings++
	p.longest = max(p.longest, took)
	if err != nil {
		p.broken = append(p.broken, err)
	}
}

// end stops the pings; then the counts are valid.
func (p *pulse) end() {
	p.stop()
	p.wg.Wait()
}

func (p *pulse) String() string {
	return fmt.Sprintf("%d pings, the longest took %s, %d connections broke %v", p.pings, p.longest, len(p.broken), p.broken)
}
