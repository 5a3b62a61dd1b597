package liveness

import (
	"time"

	"github.com/caplance/caplance/core/protocol"
)

const (
	// countEvery is how often a backend is asked for its count, while somebody
	// wants it.
	countEvery = time.Second
	// countAge is how old a count may be, and how long a backend may owe one.
	countAge = 5 * time.Second
)

// count is how many connections a backend has.
type count struct {
	wanted time.Time // last
	asked  time.Time // last
	since  time.Time // of the first question that is not answered; zero: none
	sum    int       // of the answer that has not ended yet
	n      int
	at     time.Time // when n was told; zero: never
}

// Live returns how many connections a backend counts. Where its agent does not tell,
// that is 0; until it has told, it is 1.
func (t *Tracker) Live(backend string) int {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.counts[backend]
	if c == nil || now.Sub(c.wanted) > countAge {
		c = &count{}
		t.counts[backend] = c
	}
	c.wanted = now
	if now.Sub(c.asked) >= countEvery {
		if !t.cfg.Count(backend) {
			delete(t.counts, backend)
			return 0
		}
		if c.asked = now; c.since.IsZero() {
			c.since = now
		}
	}
	switch {
	case now.Sub(c.at) <= countAge:
		return c.n
	case now.Sub(c.since) <= countAge:
		return 1
	}
	return 0
}

// counted takes a frame of an answer.
func (t *Tracker) counted(backend string, reports []protocol.Report) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.counts[backend]
	if c == nil {
		return // nobody asked
	}
	for i := range reports {
		c.sum += int(reports[i].Value)
	}
	if len(reports) == 0 {
		c.n, c.sum, c.at, c.since = c.sum, 0, time.Now(), time.Time{}
	}
}
