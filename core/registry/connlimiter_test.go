package registry

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// from returns an unregistered session of a source.
func from(a, b byte) *session {
	return &session{peer: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, a, b}), 1)}
}

func TestFullLimiterEvictsTheSilent(t *testing.T) {
	var c connLimiter
	c.init()
	now := time.Now()
	enter := func(s *session, at time.Duration) (*session, error) { return c.enter(s, &DefaultLimits, now.Add(at)) }
	var good []*session
	for i := range DefaultLimits.Connections - 1 { // agents whose sanity check is under way
		s := from(byte(i/200), byte(i%200))
		if _, err := enter(s, 0); err != nil {
			t.Fatal(err)
		}
		c.heard(s, true, now)
		good = append(good, s)
	}
	silent, late := from(100, 1), from(100, 2)
	enter(silent, 0)
	if evicted, err := enter(late, time.Second/2); evicted != nil || !errors.Is(err, errFull) {
		t.Errorf("newcomer: %v, %v; one that was silent for half a second made room", evicted, err)
	}
	if evicted, err := enter(late, 2*time.Second); evicted != silent || err != nil {
		t.Errorf("evicted %v, %v, want the silent one", evicted, err)
	}
	if evicted, err := enter(from(100, 3), time.Hour); evicted != late || err != nil {
		t.Errorf("evicted %v, %v, want the next one", evicted, err)
	}
	if c.waiting != DefaultLimits.Connections || len(c.present) != DefaultLimits.Connections+2 {
		t.Errorf("%d wait, %d are there", c.waiting, len(c.present))
	}
	for _, s := range good {
		c.registered(s)
		c.leave(s)
	}
	for _, s := range []*session{silent, late} {
		c.leave(s) // the evicted ones end too
	}
	if c.waiting != 1 || len(c.present) != 1 || len(c.sources) != 1 || c.silent.Len() != 1 {
		t.Errorf("left: %d wait, %d are there from %d sources, %d silent", c.waiting, len(c.present), len(c.sources), c.silent.Len())
	}
}

func TestOneSourceDoesNotFillTheLimiter(t *testing.T) {
	var c connLimiter
	c.init()
	now := time.Now()
	first := from(1, 1)
	c.enter(first, &DefaultLimits, now)
	second := from(1, 1)
	for i := range DefaultLimits.PerAddress - 1 {
		s := from(1, 1)
		if i == 0 {
			s = second
		}
		c.enter(s, &DefaultLimits, now.Add(time.Millisecond))
	}
	c.heard(first, false, now.Add(2*time.Millisecond)) // a line makes it the youngest
	if evicted, err := c.enter(from(1, 1), &DefaultLimits, now.Add(3*time.Millisecond)); evicted != nil || !errors.Is(err, errSourceFull) {
		t.Errorf("one more from there: %v, %v", evicted, err)
	}
	if evicted, err := c.enter(from(1, 2), &DefaultLimits, now); evicted != nil || err != nil {
		t.Errorf("one from elsewhere: %v, %v", evicted, err)
	}
	if evicted, err := c.enter(from(1, 1), &DefaultLimits, now.Add(2*time.Second)); evicted != second || err != nil {
		t.Errorf("one more later: %v, %v, want the longest silent", evicted, err)
	}
}

// A session that flaps is slowed down, keeps its lease, and slows down no other.
func TestFlappingIsThrottled(t *testing.T) {
	bubble(t, func(t *testing.T, w *testbed) {
		p, q := w.join("web1", "10.0.0.11", ""), w.join("web2", "10.0.0.12", "")
		defer p.Close()
		defer q.Close()
		start, calls := time.Now(), w.calls
		for i := range 120 {
			p.ask([]string{"PAUSE", "RESUME", "HEALTH 503", "HEALTH 200"}[i%4], []string{"PAUSED", "RESUMED", "HEALTHACK", "HEALTHACK"}[i%4])
		}
		within(t, "120 changes, 20 of them at once", time.Since(start), 19*time.Second, 21*time.Second)
		if n := w.calls - calls; n != 120 {
			t.Errorf("%d calls of Apply", n)
		}
		start = time.Now()
		for range 100 {
			q.ask("HEALTH 200", "HEALTHACK 200")
			q.ask("RESUME", "RESUMED web2") // no change
		}
		within(t, "lines without a change", time.Since(start), 0, 0)
		time.Sleep(10 * time.Second)
		start = time.Now()
		p.ask("PAUSE", "PAUSED web1")
		synctest.Wait()
		within(t, "a change after a quiet time", time.Since(start), 0, 0)
	})
}
