package e2e

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
)

// handover has the balancer leave its flows to the kernel.
func handover(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	await(t, "a handover", func() error { // refused until the programs are attached
		_, err := c.Control().Handover(t.Context())
		return err
	})
}

// replace puts a new balancer in the place of the running one.
func replace(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	// Refused until the successor has taken over, a tick after its backends are back.
	await(t, "a handover", func() error {
		_, err := c.Control().Handover(t.Context())
		return err
	})
	select {
	case <-c.Server.Done():
	case <-time.After(slow.Time(5 * time.Second)):
		t.Fatal("the balancer goes on after the handover")
	}
	if err := c.Server.Err(); err != nil {
		t.Errorf("handover: %v\n%s", err, c.Server.Output())
	}
	must(t, c.StartServer(t.Context()))
	must(t, c.AwaitActive(t.Context(), len(c.Backends)))
}

// The balancer is replaced, twice, while clients come and go all the time: not
// one of their connections fails, though some have to ask again. A policy that
// repeats itself makes that easier than one that does not.
func TestUpgradeUnderLoad(t *testing.T) {
	for _, policy := range []string{"hash", "round-robin"} {
		t.Run(policy, func(t *testing.T) {
			c := inTheKernel(t, cluster.Options{Backends: 3, Policy: policy})
			old := openLines(t, c, cluster.VIP4, 20)
			for _, l := range old {
				must(t, l.ping(pingTimeout))
			}
			upgradeTwice(t, c)
			for _, l := range old {
				must(t, l.ping(pingTimeout))
				must(t, l.finish())
			}
		})
	}
}

func upgradeTwice(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	const least = 2000 // connections in all
	v := startVisitors(t, c, 16)
	for range 2 {
		v.await(t, least/4)
		replace(t, c)
	}
	v.await(t, least/2)
	v.end()
	t.Logf("%d connections, the longest took %s", v.done, v.longest)
	for _, err := range v.failed[:min(10, len(v.failed))] {
		t.Error(err)
	}
	if len(v.failed) > 0 {
		t.Errorf("%d of %d connections failed", len(v.failed), v.done)
	}
}

// visitors are clients that connect, ask, close and come again.
type visitors struct {
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	done    int
	longest time.Duration
	failed  []error
}

func startVisitors(t *testing.T, c *cluster.Cluster, n int) *visitors {
	ctx, cancel := context.WithCancel(t.Context())
	v := &visitors{stop: cancel}
	for i := range n {
		v.wg.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				v.note(began, visit(t, c, i))
			}
		})
	}
	t.Cleanup(v.end)
	return v
}

// visit is one short connection to its orderly end.
func visit(t *testing.T, c *cluster.Cluster, i int) error {
	l, err := openLine(t, c, vips[i%2])
	if err != nil {
		return err
	}
	defer l.Close()
	return errors.Join(l.ping(10*time.Second), l.finish())
}

func (v *visitors) note(began time.Time, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	took := time.Since(began)
	v.done++
	v.longest = max(v.longest, took)
	if err == nil && took > slow.Time(10*time.Second) {
		err = errors.New("it took too long")
	}
	if err != nil {
		v.failed = append(v.failed, fmt.Errorf("after %s: %w", took.Round(time.Millisecond), err))
	}
}

// await waits until n more visits are over.
func (v *visitors) await(t *testing.T, n int) {
	t.Helper()
	count := func() int {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.done
	}
	until := count() + n
	await(t, "more connections", func() error {
		if have := count(); have < until {
			return fmt.Errorf("%d of %d", have, until)
		}
		return nil
	})
}

// end waits for the visits under way; then the counts are valid.
func (v *visitors) end() {
	v.stop()
	v.wg.Wait()
}
