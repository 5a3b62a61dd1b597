package registry

import (
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/protocol"
)

// until returns how long it takes from now until the pool is as wanted.
func (w *testbed) until(want string) time.Duration {
	w.t.Helper()
	start := time.Now()
	for w.seen() != want {
		if time.Since(start) > 5*time.Minute {
			w.t.Fatalf("pool is %q after 5 minutes, want %q", w.seen(), want)
		}
		time.Sleep(10 * time.Millisecond) // the bubble's clock
		synctest.Wait()
	}
	return time.Since(start)
}

func within(t *testing.T, what string, got, least, most time.Duration) {
	t.Helper()
	if got < least || got > most {
		t.Errorf("%s after %s, want %s to %s", what, got, least, most)
	}
}

func TestSilentBackendExpires(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		p := w.join("web1", "10.0.0.11", "")
		defer p.Close()
		for range 5 {
			time.Sleep(29 * time.Second)
			p.ask("HEALTH 200", "HEALTHACK 200")
		}
		go p.ReadLine()
		within(t, "silent backend gone", w.until(""), 30*time.Second, 31*time.Second)
	})
}

// A byte now and then does not make a line, and only a line renews the lease.
func TestTricklingBackendExpires(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		p := w.join("web1", "10.0.0.11", "")
		defer p.Close()
		go func() {
			for {
				if _, err := p.conn.Write([]byte("H")); err != nil {
					return
				}
				time.Sleep(5 * time.Second)
			}
		}()
		go p.ReadLine()
		within(t, "trickling backend gone", w.until(""), 30*time.Second, 31*time.Second)
	})
}

func TestLostBackendIsKept(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		p := w.join("web1", "10.0.0.11", "")
		p.ask("HEALTH 200", "HEALTHACK 200")
		time.Sleep(10 * time.Second)
		p.hangUp()
		within(t, "lost", w.until("web1 lost"), 0, 0)
		within(t, "lost backend gone", w.until(""), 30*time.Second, 31*time.Second)
	})
}

func TestTakeOverKeepsTheMembership(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		p := w.join("web1", "10.0.0.11", "weight=1")
		before := w.backend("web1").Since
		p.Close()
		time.Sleep(29 * time.Second)
		p = w.join("web1", "10.0.0.11", "weight=5 services=dns")
		b := w.backend("web1")
		if !b.Since.Equal(before) || b.Weight != 5 || b.State != core.Active || !b.Serves("dns") || b.Serves("web") {
			t.Errorf("took over as %+v, before since %s", b, before)
		}
		time.Sleep(5 * time.Second) // the first lease would be over
		if got := w.seen(); got != "web1 active" {
			t.Errorf("pool is %q", got)
		}
		p.Close()
		w.until("")
		q := w.join("web1", "10.0.0.12", "") // free again
		defer q.Close()
		if w.backend("web1").Since.Equal(before) {
			t.Error("a newcomer has the membership of the one before")
		}
	})
}

func TestTakeOverOfPausedStartsAsAsked(t *testing.T) {
	for options, want := range map[string]string{"": "web1 active", "state=paused": "web1 paused", "state=draining": "web1 draining"} {
		bubble(t, func(t *testing.T, w *testbed) {
			w.active.Store(1)
			p := w.join("web1", "10.0.0.11", "")
			p.ask("PAUSE", "PAUSED web1")
			p.hangUp()
			within(t, "still paused", w.until("web1 paused"), 0, 0)
			q := w.join("web1", "10.0.0.11", options)
			defer q.Close()
			if got := w.seen(); got != want {
				t.Errorf("REGISTER %s: pool is %q, want %q", options, got, want)
			}
		})
	}
}

func TestDrainDeadline(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		w.active.Store(3)
		p := w.join("web1", "10.0.0.11", "v=2")
		defer p.Close()
		start := time.Now()
		p.ask("DRAIN", "DRAINING web1")
		for range 2 {
			time.Sleep(20 * time.Second)
			p.ask("HEALTH 200", "HEALTHACK 200 state=draining active=3")
		}
		p.ask("DRAIN web1", "DRAINING web1") // moves nothing
		w.until("")
		within(t, "out of the pool", time.Since(start), time.Minute, 61*time.Second)
		p.ask("HEALTH 200", "HEALTHACK 200 state=drained active=3")
		p.ask("DEREGISTER", "DEREGISTERED web1 requested")
		q := w.join("web1", "10.0.0.13", "")
		defer q.Close()
	})
}

func TestIdleDrainWaitsForFlowsInTheMaking(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		p := w.join("web1", "10.0.0.11", "")
		defer p.Close()
		since := w.backend("web1").Since
		p.ask("DRAIN", "DRAINING web1")
		within(t, "drained", w.until(""), time.Second, 2*time.Second)
		p.ask("RESUME", "RESUMED web1")
		if w.backend("web1").Since.Equal(since) {
			t.Error("a drained backend is back with its old membership")
		}
	})
}

// An agent of the first generation does not fold ECN.
func TestFoldsECN(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		for _, tt := range []struct {
			name, options string
			want          bool
		}{{"web1", "v=2", true}, {"web2", "", false}} {
			p := w.join(tt.name, "10.0.0.1"+tt.name[3:], tt.options)
			defer p.Close()
			if got := w.backend(tt.name).FoldsECN; got != tt.want {
				t.Errorf("%q: folds %v", tt.options, got)
			}
		}
	})
}

func TestDrainWaitsForConnections(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		w.live.Store(2)
		p := w.join("web1", "10.0.0.11", "v=2")
		defer p.Close()
		p.ask("DRAIN", "DRAINING web1")
		time.Sleep(20 * time.Second)
		p.ask("HEALTH 200", "HEALTHACK 200 state=draining active=0")
		w.live.Store(0)
		within(t, "drained", w.until(""), 0, time.Second)
	})
}

func TestUnregisteredConnectionEnds(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		p := w.connect()
		defer p.Close()
		start := time.Now()
		p.ask("X", "INVALID")
		time.Sleep(25 * time.Second)
		p.ask("X", "INVALID") // lines do not help
		for {
			if _, err := p.ReadLine(); err != nil {
				break
			}
		}
		within(t, "hung up", time.Since(start), 30*time.Second, 31*time.Second)
	})
}

func TestHeartbeatsAreNoChange(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		p := w.join("web1", "10.0.0.11", "")
		defer p.Close()
		calls := w.calls
		for range 10 {
			p.ask("HEALTH 200 load=1", "HEALTHACK 200")
		}
		if w.calls != calls {
			t.Errorf("%d calls of Apply for heartbeats that changed nothing", w.calls-calls)
		}
	})
}

// What piles up behind a slow Apply is one call, and nobody has its revision
// before.
func TestChangesShareASlowApply(t *testing.T) {
	const agents = 100
	w := newTestbed(t)
	running, gate := make(chan struct{}, 1), make(chan struct{})
	apply := w.r.cfg.Apply
	w.r.cfg.Apply = func(list []core.Backend) uint64 {
		running <- struct{}{}
		<-gate
		defer func() { <-running }()
		return apply(list)
	}
	revisions := make(chan uint64, 1+agents)
	admit := func(i int) {
		name, addr := fmt.Sprintf("web%d", i), netip.AddrFrom4([4]byte{10, 0, 1, byte(i)})
		_, revision, err := w.r.leases.admit(t.Context(), &session{name: name}, protocol.Request{Name: name, Addr: addr})
		if err != nil {
			t.Error(err)
		}
		revisions <- revision
	}
	var wg sync.WaitGroup
	wg.Go(func() { admit(0) })
	for len(running) == 0 {
		runtime.Gosched()
	}
	for i := range agents {
		wg.Go(func() { admit(1 + i) })
	}
	for len(w.r.Backends()) < 1+agents {
		runtime.Gosched()
	}
	if len(revisions) > 0 {
		t.Error("a change had its revision before Apply returned")
	}
	close(gate)
	wg.Wait()
	if w.calls != 2 || len(w.pool) != 1+agents {
		t.Errorf("%d calls of Apply, the last one with %d backends", w.calls, len(w.pool))
	}
	late := 0
	for range 1 + agents {
		if <-revisions == 2 {
			late++
		}
	}
	if late != agents {
		t.Errorf("%d changes have the second revision, want %d", late, agents)
	}
}

// A drain is not over before all flows were counted that may have begun before it.
func TestDrainWaitsForTheCount(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		w.counted.Store(&time.Time{})
		p := w.join("web1", "10.0.0.11", "")
		began := time.Now()
		p.ask("DRAIN", "DRAINING web1")
		for _, at := range []time.Time{{}, began, began.Add(settle - 1)} {
			w.counted.Store(&at)
			time.Sleep(3 * time.Second)
			synctest.Wait()
			if got := w.seen(); got != "web1 draining" {
				t.Fatalf("counted at %v: pool is %q", at.Sub(began), got)
			}
		}
		at := began.Add(settle)
		w.counted.Store(&at)
		time.Sleep(time.Second)
		synctest.Wait()
		if got := w.seen(); got != "" {
			t.Errorf("pool is %q after the count", got)
		}
		p.hangUp()
	})
}

// A session tells when its agent was heard last, and how long it may be silent.
func TestAgeOfALease(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		p := w.join("web1", "10.0.0.11", "")
		p.ask("HEALTH 200", "HEALTHACK 200")
		set := testSettings()
		time.Sleep(set.PlainLease / 2)
		one := w.r.Sessions()[0]
		if age := time.Since(one.Heard); age != set.PlainLease/2 || one.Lease != set.PlainLease {
			t.Errorf("silent for %v of %v, want half of %v", age, one.Lease, set.PlainLease)
		}
		p.ask("HEALTH 200", "HEALTHACK 200")
		if age := time.Since(w.r.Sessions()[0].Heard); age != 0 {
			t.Errorf("silent for %v after a line", age)
		}
	})
}
