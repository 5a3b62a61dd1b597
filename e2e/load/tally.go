package load

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// Cost is what clients lost while something happened.
type Cost struct {
	Opened int // new connections, HTTP and TCP
	Failed int // of these: no answer within 3 s, or an error; and established ones that said nothing for 10 s
	Reset  int // established connections, of all kinds, that were ended
	Moved  int // UDP flows that another backend answered, and connections that were reset while their backend had them
	Asked  int // datagrams
	Lost   int // of these: not answered within 3 s

	Gap      time.Duration // longest, in which no new connection succeeded
	Stall    time.Duration // longest wait of an established connection that lived on
	Recovery time.Duration // from what happened to the end of the last trouble, the longest of all marks

	// Jolt is how long this program itself stood still, so that the times say as much of
	// the machine that all of this runs on.
	Jolt time.Duration

	Troubles int      // whatever failed, or took longer than Prompt
	Why      []string // the first of them
}

// Tally counts what began in its time.
type Tally struct {
	pending sync.WaitGroup

	mu     sync.Mutex
	c      Cost
	began  time.Time
	last   time.Time // success of a new connection
	phases []phase
}

// phase begins with what happens.
type phase struct{ began, trouble time.Time }

func newTally() *Tally {
	now := time.Now()
	return &Tally{began: now, last: now, phases: []phase{{began: now}}}
}

// Mark says that something happens now; recovery is measured from here.
func (t *Tally) Mark() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.phases = append(t.phases, phase{began: time.Now()})
}

// opened counts a new connection that began then and has ended now.
func (t *Tally) opened(what string, began time.Time, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.c.Opened++
	if err != nil {
		t.c.Failed++
		t.trouble(began, what, err)
		return
	}
	now := time.Now()
	t.c.Gap = max(t.c.Gap, now.Sub(t.last))
	t.last = now
	t.late(began, what)
}

// jolt notes how much later than it should this program went on.
func (t *Tally) jolt(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.c.Jolt = max(t.c.Jolt, d)
}

// answered counts a ping that an established connection has answered.
func (t *Tally) answered(began time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.c.Stall = max(t.c.Stall, time.Since(began))
	t.late(began, "ping")
}

// lose counts an established connection that is lost, since it began to ask.
func (t *Tally) lose(x *line, what string, err error, began time.Time) {
	moved := ended(err) && x.backend.Holds(x.client)
	t.mu.Lock()
	defer t.mu.Unlock()
	if ended(err) {
		t.c.Reset++
	} else {
		t.c.Failed++
	}
	if moved {
		t.c.Moved++
	}
	t.trouble(began, what+" at "+x.backend.Name, err)
}

// ended reports whether an error is the end of a connection, not silence.
func ended(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF)
}

// datagram counts one that was answered, by another backend than the last one or not,
// or was not.
func (t *Tally) datagram(began time.Time, err error, moved bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.c.Asked++
	if err != nil {
		t.c.Lost++
		t.trouble(began, "udp", err)
		return
	}
	if moved {
		t.c.Moved++
	}
	t.late(began, "udp")
}

// late takes what took longer than Prompt for trouble until now.
func (t *Tally) late(began time.Time, what string) {
	if took := time.Since(began); took > Prompt {
		t.trouble(time.Now(), what, fmt.Errorf("took %s", took.Round(time.Millisecond)))
	}
}

// trouble notes when there was some.
func (t *Tally) trouble(at time.Time, what string, err error) {
	p := &t.phases[0]
	for i := range t.phases {
		if !t.phases[i].began.After(at) {
			p = &t.phases[i]
		}
	}
	if at.After(p.trouble) {
		p.trouble = at
	}
	t.c.Troubles++
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = os.ErrDeadlineExceeded
	}
	if len(t.c.Why) < 8 {
		t.c.Why = append(t.c.Why, fmt.Sprintf("%s after %s: %v", what, at.Sub(t.phases[len(t.phases)-1].began).Round(time.Millisecond), err))
	}
}

// cost returns what was counted, to an end.
func (t *Tally) cost(end time.Time) Cost {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.c
	c.Gap = max(c.Gap, end.Sub(t.last))
	for _, p := range t.phases[min(1, len(t.phases)-1):] {
		if !p.trouble.IsZero() {
			c.Recovery = max(c.Recovery, p.trouble.Sub(p.began))
		}
	}
	return c
}
