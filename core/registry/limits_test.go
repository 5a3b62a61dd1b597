package registry

import (
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

// A backend of many services may say of all at once that they are down.
func TestManyServices(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		p := w.join("web1", "10.0.0.11", "")
		began := time.Now()
		for i := range 300 {
			if i%2 == 0 {
				p.ask("SERVICE web down nothing listens", "SERVICE web down")
			} else {
				p.ask("SERVICE web up", "SERVICE web up")
			}
		}
		p.ask("PAUSE", "PAUSED web1")
		within(t, "all said", time.Since(began), 0, time.Millisecond)
	})
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
