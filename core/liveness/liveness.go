// Package liveness ends flows when their connections end. Backends whose agents
// tell of their connections are asked about what is in doubt, and the flow tables
// of the kernel and of the workers follow what they say.
//
//	t := liveness.New(liveness.Config{Snapshot: store.Snapshot, Ask: registry.Ask, …})
//	go t.Run(ctx)
package liveness

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/datapath"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/protocol"
)

const (
	// linger is how long the entry of a flow that ended stays after its last
	// packet: ACKs and a retransmitted FIN are still on their way.
	linger = 3 * time.Second
	// closing is how long after a FIN or RST a backend may take to tell that the
	// connection ended, before it is asked.
	closing = 5 * time.Second
	// unproven is how long a flow may be silent of which its backend has not yet
	// said that it is there: it may be a flood's.
	unproven = 10 * time.Second
	// patience is how long an answer may take. Then nobody knows, and the flow's
	// timeouts hold.
	patience = 30 * time.Second
	// gather is how long questions are gathered.
	gather = 20 * time.Millisecond
	// maxAsked questions wait for their answers; more are asked later.
	maxAsked = 1 << 16
	// maxResets are kept apart; of more, the backend is taken to have missed some.
	maxResets = 1 << 12
	// resetTime is how long a reset is a reason to ask: all flows are looked at
	// meanwhile.
	resetTime = 10 * time.Second
	// missedTime is how long ends that were missed are: all flows that were silent
	// since have been looked at, and asked about, many times.
	missedTime = 10 * time.Minute
)

// Kernel is the fast path, which may be off: then Kernel returns nil.
type Kernel interface {
	Kernel() *fastpath.Balancer
	Hold() (release func())
}

// Config is what a Tracker is made with.
type Config struct {
	Snapshot func() *core.Snapshot
	Fast     Kernel
	// Ask sends questions to a backend's agent; false: it cannot be asked now.
	Ask func(backend string, about []protocol.Report) bool
	// Count asks it how many connections it has, as Ask does.
	Count func(backend string) bool
	// Tell hands the workers what backends say.
	Tell func([]datapath.Word)
}

// Tracker implements datapath.Truth, and registry.Connections.
type Tracker struct {
	cfg  Config
	wake chan struct{}

	missing atomic.Bool // since or resets is not empty: every flow that is looked at pays for it

	ended, alive, gone, unknown, questions, unasked atomic.Uint64

	mu     sync.Mutex
	asked  map[core.FlowKey]question
	queue  map[string][]protocol.Report // by backend: to be asked
	since  map[string]time.Time         // by backend: when it missed ends
	resets map[reset]time.Time          // connections that backends have reset
	counts map[string]*count            // by backend
}

// reset is what is known of a connection that its backend has reset: not the
// client's port.
type reset struct {
	backend string
	client  [16]byte
	port    uint16
}

// question is one whose answer is awaited.
type question struct {
	backend core.Handle
	name    string // the backend's: nobody else answers
	at      time.Time
	unknown bool // answered: it cannot tell
}

// New returns a Tracker that asks once Run runs.
func New(cfg Config) *Tracker {
	return &Tracker{
		cfg: cfg, wake: make(chan struct{}, 1),
		asked: map[core.FlowKey]question{}, queue: map[string][]protocol.Report{}, since: map[string]time.Time{},
		resets: map[reset]time.Time{}, counts: map[string]*count{},
	}
}

// Judge implements datapath.Truth.
func (t *Tracker) Judge(s *datapath.Signs) bool {
	if s.Ended {
		return s.Idle > linger
	}
	due := s.Silent || s.Closed && s.Idle > closing || s.Drains && s.Idle > closing || !s.Proven && (s.Crowded || s.Idle > unproven)
	if !due && !t.missed(s) {
		return false
	}
	return t.doubt(s.Service, s.Backend, &s.Key) > patience && s.Silent
}

// missed reports whether the flow's end may have been missed: nothing came since
// its backend was deaf, or reset a connection of the same client.
func (t *Tracker) missed(s *datapath.Signs) bool {
	if !t.missing.Load() {
		return false
	}
	m := t.member(s.Service, s.Backend)
	if m == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if at, ok := t.since[m.Name]; ok && s.Idle >= time.Second && time.Since(at) < s.Idle {
		return true
	}
	if len(t.resets) == 0 {
		return false
	}
	at, ok := t.resets[reset{m.Name, s.Key.Src, s.Key.DstPort}]
	return ok && time.Since(at) < s.Idle+core.ClockSlack
}

// noteReset notes that a backend has reset one of a client's connections.
func (t *Tracker) noteReset(backend string, k *core.FlowKey, ago time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.missing.Store(true)
	if len(t.resets) >= maxResets {
		t.since[backend] = time.Now()
		return
	}
	t.resets[reset{backend, k.Src, k.DstPort}] = time.Now().Add(-ago)
}

// Doubt implements datapath.Truth.
func (t *Tracker) Doubt(service core.ServiceID, h core.Handle, k *core.FlowKey) {
	t.doubt(service, h, k)
}

// doubt asks a backend about a flow and returns how long it has owed the answer.
func (t *Tracker) doubt(service core.ServiceID, h core.Handle, k *core.FlowKey) (waited time.Duration) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if q, ok := t.asked[*k]; ok && q.backend == h {
		if waited = now.Sub(q.at); q.unknown {
			waited += patience
		}
		if waited > 2*patience {
			delete(t.asked, *k) // for another question
		}
		return waited
	}
	m := t.member(service, h)
	if m == nil || len(t.asked) >= maxAsked {
		return 0
	}
	t.asked[*k] = question{backend: h, name: m.Name, at: now}
	t.queue[m.Name] = append(t.queue[m.Name], protocol.Report{Key: *k})
	select {
	case t.wake <- struct{}{}:
	default:
	}
	return 0
}

// member returns a membership, nil if it has ended.
func (t *Tracker) member(service core.ServiceID, h core.Handle) *core.Member {
	p := t.cfg.Snapshot().Pools.Of(service)
	if p == nil {
		return nil
	}
	i, ok := p.Find(h)
	if !ok {
		return nil
	}
	return &p.Members[i]
}

// Run asks until ctx ends, which is no error.
func (t *Tracker) Run(ctx context.Context) error {
	tidy := time.NewTicker(resetTime)
	defer tidy.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tidy.C:
			t.forget(now)
		case <-t.wake:
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(gather):
			}
			t.askAll()
		}
	}
}

// askAll sends the questions that were gathered. Those that cannot be sent stay
// unanswered.
func (t *Tracker) askAll() {
	t.mu.Lock()
	queue := t.queue
	t.queue = map[string][]protocol.Report{}
	t.mu.Unlock()
	for backend, about := range queue {
		if t.cfg.Ask(backend, about) {
			t.questions.Add(uint64(len(about)))
		} else {
			t.unasked.Add(uint64(len(about)))
		}
	}
}

// forget drops the questions that nobody waits for any more.
func (t *Tracker) forget(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, q := range t.asked {
		if now.Sub(q.at) > 3*patience {
			delete(t.asked, k)
		}
	}
	for backend, c := range t.counts {
		if now.Sub(c.wanted) > countAge {
			delete(t.counts, backend)
		}
	}
	for r, at := range t.resets {
		if now.Sub(at) > resetTime {
			delete(t.resets, r)
		}
	}
	for backend, at := range t.since {
		if now.Sub(at) > missedTime {
			delete(t.since, backend)
		}
	}
	t.missing.Store(len(t.since)+len(t.resets) > 0)
}

// AddTo adds what was counted to a map by name: connections of which agents told
// that they ended, questions, those that could not be asked, and the answers.
func (t *Tracker) AddTo(m map[string]uint64) {
	for name, n := range map[string]*atomic.Uint64{
		"connections_ended": &t.ended, "connections_asked": &t.questions, "connections_unasked": &t.unasked,
		"connections_alive": &t.alive, "connections_gone": &t.gone, "connections_unknown": &t.unknown,
	} {
		m[name] += n.Load()
	}
}
