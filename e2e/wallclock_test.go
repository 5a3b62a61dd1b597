package e2e

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/nettest"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/cluster"
)

// Leases, flows, checks and keys do not go by the wall clock: an hour forward, two back
// and another forward cost nobody anything, and agents register whatever it says.
func TestWallClock(t *testing.T) {
	nettest.OwnMachine(t)
	c := start(t, cluster.Options{Backends: 2})
	lines := append(openLines(t, c, cluster.VIP4, 10), openLines(t, c, cluster.VIP6, 10)...)
	set := func(by time.Duration) {
		var now unix.Timespec
		must(t, unix.ClockGettime(unix.CLOCK_REALTIME, &now))
		now.Sec += int64(by / time.Second)
		must(t, unix.ClockSettime(unix.CLOCK_REALTIME, &now))
	}
	began, wall := time.Now(), time.Now().Unix()
	t.Cleanup(func() { // by the monotonic clock
		set(time.Duration(wall-time.Now().Unix())*time.Second + time.Since(began).Round(time.Second))
	})
	for _, by := range []time.Duration{time.Hour, -2 * time.Hour, time.Hour} {
		set(by)
		for until := time.Now().Add(slow.Time(1500 * time.Millisecond)); time.Now().Before(until); {
			for _, l := range lines {
				if err := l.ping(5 * time.Second); err != nil {
					t.Fatalf("clock set by %v: connection at %s: %v", by, l.backend, err)
				}
			}
			if _, err := httpGet(t, c, cluster.VIP4); err != nil {
				t.Fatalf("clock set by %v: new connection: %v", by, err)
			}
		}
		rows, err := c.Control().Backends(t.Context())
		must(t, err)
		for _, r := range rows {
			if r.State != core.Active {
				t.Errorf("clock set by %v: %s is %s: %s", by, r.Name, r.State, r.Reason)
			}
		}
		must(t, c.Backends[1].StopAgent())
		must(t, c.Backends[1].StartAgent(t.Context()))
		await(t, fmt.Sprintf("b2 back with the clock set by %v", by), func() error { return c.AwaitActive(t.Context(), 2) })
		lines = append(openLines(t, c, cluster.VIP4, 10), openLines(t, c, cluster.VIP6, 10)...) // those of b2 may be gone
	}
}
