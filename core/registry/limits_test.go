package registry

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// Who sends lines without end is read as fast as the limit says, and others are not
// held up meanwhile.
func TestLinesLimit(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		p, good := w.join("web1", "10.0.0.11", ""), w.join("web2", "10.0.0.12", "")
		began := time.Now()
		for range 1000 {
			p.ask("HEALTH 200", "HEALTHACK 200")
		}
		within(t, "1000 lines read", time.Since(began), 5*time.Second, 7*time.Second) // 100 a second after the first 400
		began = time.Now()
		good.ask("HEALTH 200", "HEALTHACK 200")
		within(t, "the other's line", time.Since(began), 0, time.Millisecond)
		counted := map[string]uint64{}
		w.r.AddTo(counted)
		if counted["registry_lines_delayed"] < 500 || counted["registry_changes_delayed"] != 0 {
			t.Errorf("%v", counted)
		}
		time.Sleep(10 * time.Second)
		began = time.Now()
		for range 300 {
			p.ask("HEALTH 200", "HEALTHACK 200")
		}
		within(t, "300 lines later", time.Since(began), 0, time.Millisecond)
	})
}

// A backend of many services may say of all at once that they are down, and up again.
func TestManyServices(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		set := testSettings()
		for i := range 150 {
			set.Services = append(set.Services, fmt.Sprint("s", i))
		}
		w.r.Update(set)
		p := w.join("web1", "10.0.0.11", "")
		began := time.Now()
		for _, name := range set.Services {
			p.ask("SERVICE "+name+" down nothing listens", "SERVICE "+name+" down")
			p.ask("SERVICE "+name+" up", "SERVICE "+name+" up")
		}
		p.ask("PAUSE", "PAUSED web1")
		within(t, "all said", time.Since(began), 0, time.Millisecond)
	})
}

// A service that turns without end is held up like the backend as a whole: each turn
// changes the pools.
func TestServiceFlaps(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		p := w.join("web1", "10.0.0.11", "")
		began := time.Now()
		for range 10 {
			p.ask("SERVICE web down nothing listens", "SERVICE web down")
			p.ask("SERVICE web up", "SERVICE web up")
		}
		within(t, "20 turns", time.Since(began), 0, time.Millisecond)
		for range 50 {
			p.ask("SERVICE web,dns down nothing listens", "SERVICE web,dns down")
			p.ask("SERVICE web,dns up", "SERVICE web,dns up")
		}
		within(t, "100 more", time.Since(began), 20*time.Second, 20*time.Second)
		counted := map[string]uint64{}
		if w.r.AddTo(counted); counted["registry_changes_delayed"] != 100 {
			t.Errorf("%v", counted)
		}
	})
}

// A reason that is another one each time makes no revision each time, but the last one
// is published by the next HEALTH.
func TestReasonsChange(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		p := w.join("web1", "10.0.0.11", "")
		p.ask("SERVICE web down 0", "SERVICE web down")
		calls, began := w.calls, time.Now()
		for i := range 100 {
			p.ask(fmt.Sprint("SERVICE web down ", i+1), "SERVICE web down")
		}
		within(t, "100 reasons", time.Since(began), 0, time.Millisecond)
		if n := w.calls - calls; n != 5 {
			t.Errorf("%d revisions of 100 reasons at once", n)
		}
		published := func() string { return w.pool[0].Down[0].Why }
		if got := published(); got != "5" {
			t.Errorf("published: %s", got)
		}
		p.ask("HEALTH 200", "HEALTHACK 200")
		if got, n := published(), w.calls-calls; got != "100" || n != 6 {
			t.Errorf("published after HEALTH: %s, in %d revisions", got, n)
		}
		p.ask("HEALTH 200", "HEALTHACK 200")
		if n := w.calls - calls; n != 6 {
			t.Errorf("HEALTH without news made a revision: %d", n)
		}
		began = time.Now()
		for i := range 100 {
			p.ask(fmt.Sprint("SERVICE web down ", i), "SERVICE web down")
			p.ask("HEALTH 200", "HEALTHACK 200")
		}
		if n := w.calls - calls; time.Since(began) < 5*time.Second || n > 6+20+10*int(time.Since(began)/time.Second+1) {
			t.Errorf("%d revisions in %s", n, time.Since(began))
		}
	})
}

// An agent that comes and goes without end is held up, too, in whatever sessions it does
// so, and has one line of each kind a second in the log. Others are not held up.
func TestComesAndGoes(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		var log bytes.Buffer
		w.r.known.log = slog.New(slog.NewTextHandler(&log, nil))
		began := time.Now()
		for range 120 {
			p := w.connect()
			p.send("REGISTER web1 10.0.0.11")
			p.ask("SANE "+w.nonce("10.0.0.11"), "REGISTERED web1 10.0.0.11")
			p.hangUp()
		}
		within(t, "120 registrations", time.Since(began), 20*time.Second, 20*time.Second)
		if n := strings.Count(log.String(), "\n"); n > 2*25 {
			t.Errorf("%d lines in 20 s:\n%s", n, &log)
		}
		if !strings.Contains(log.String(), "unlogged=") {
			t.Errorf("nothing says that lines were left out:\n%s", &log)
		}
		began = time.Now()
		for i := range 50 { // a storm of others
			p := w.connect()
			addr := fmt.Sprint("10.0.1.", i+1)
			p.send(fmt.Sprint("REGISTER other", i, " ", addr))
			p.ask("SANE "+w.nonce(addr), "REGISTERED other")
		}
		within(t, "50 others", time.Since(began), 0, time.Millisecond)
		if n := strings.Count(log.String(), "backend=other"); n != 50 {
			t.Errorf("%d of 50 others are in the log", n)
		}
	})
}

// What turns at one time is all in the log, each with its reason: many services of a
// backend's, and of many backends in one network.
func TestManyReasons(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		var log bytes.Buffer
		w.r.known.log = slog.New(slog.NewTextHandler(&log, nil))
		w.r.quiet.log = w.r.known.log
		for i := range 30 {
			p := w.join(fmt.Sprint("web", i), fmt.Sprint("10.0.0.", i+1), "")
			p.ask(fmt.Sprint("SERVICE web down web", i, " is empty"), "SERVICE web down")
			p.ask(fmt.Sprint("SERVICE dns down dns", i, " is empty"), "SERVICE dns down")
			p.ask("SERVICE web,dns up", "SERVICE web,dns up")
		}
		for i := range 30 {
			for _, want := range []string{"web", "dns"} {
				if want := fmt.Sprintf("why=\"%s%d is empty\"", want, i); !strings.Contains(log.String(), want) {
					t.Errorf("nothing says %s", want)
				}
			}
		}
		if n := strings.Count(log.String(), "works again"); n != 30 {
			t.Errorf("%d of 30 work again", n)
		}
	})
}

// Buckets of those who stay away are not kept.
func TestBuckets(t *testing.T) {
	var m buckets
	now := time.Now()
	for i := range 1000 {
		m.take(fmt.Sprint(i), now, 5)
	}
	for range 1000 {
		m.take("busy", now, 5)
	}
	if d := m.take("busy", now.Add(time.Minute), 5); len(m.of) != 1 || d < time.Minute {
		t.Errorf("%d are kept, and the busy one waits %s", len(m.of), d)
	}
}

// The configuration's limits hold for what comes from now on.
func TestBackendsLimit(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		set := testSettings()
		set.Limits.Backends = 2
		w.r.Update(set)
		w.join("web1", "10.0.0.11", "")
		w.join("web2", "10.0.0.12", "")
		p := w.connect()
		p.ask("REGISTER web3 10.0.0.13", "INVALID registry is full (2 backends; registry.limits.backends at the balancer)")
		counted := map[string]uint64{}
		w.r.AddTo(counted)
		if counted["registry_registers_refused"] != 1 {
			t.Errorf("%v", counted)
		}
	})
}
