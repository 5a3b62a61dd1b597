// Package offload is the fast path as the balancer has it: on or off, as the
// configuration and the kernel allow. It is the reconcile target for it, counts
// the flows in the kernel, and ends the closed and the silent ones.
//
//	f := offload.New(offload.Config{StateDir: dir, Snapshot: store.Snapshot, Counters: set, Log: log})
//	err := f.Open(settings) // finds what a predecessor left; changes nothing yet
//	f.Serve(workers)        // before the reconcile loop begins
package offload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/counters"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/liveness"
	"github.com/caplance/caplance/core/state"
	"github.com/caplance/caplance/core/workers"
)

// Config is what a fast path is made with.
type Config struct {
	StateDir string
	Snapshot func() *core.Snapshot
	Counters *counters.Set
	Liveness *liveness.Tracker // nil: backends tell nothing of their connections; set before Collect
	Log      *slog.Logger
}

// FastPath is the target of the fast path, which may be on or off.
type FastPath struct {
	Config
	workers atomic.Pointer[workers.Set] // take its flows when it is turned off, and give theirs when on; nil before they run

	using  sync.RWMutex                 // to turn it off, nobody else may use it
	before map[string]uint64            // what the programs of those turned off have counted; guarded by using
	denied map[string]fastpath.Refusals // likewise, by service; guarded by using

	balancer atomic.Pointer[fastpath.Balancer] // nil: off
	kind     atomic.Pointer[datapath]
	failed   *core.Settings // with which it could not be opened, and is not tried again
	opened   bool           // opened since the last Add
	leaving  atomic.Bool    // a successor is to come; no heartbeat any more

	counting sync.Mutex // one notes what the kernel has done

	changed chan struct{}                      // the services have: a collection is due
	counted atomic.Pointer[time.Time]          // when the last collection began that is over; nil: none is
	found   atomic.Pointer[fastpath.Collected] // by that; nil: nothing
	rounds  counters.Histogram                 // how long collections took
}

// New returns one that is off.
func New(cfg Config) *FastPath {
	return &FastPath{
		Config: cfg, before: map[string]uint64{}, denied: map[string]fastpath.Refusals{}, changed: make(chan struct{}, 1),
		rounds: counters.Histogram{Bounds: roundBounds},
	}
}

// roundBounds are those of how long collections take.
var roundBounds = []time.Duration{
	time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond,
	200 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second,
}

// Serve has the fast path exchange flows with these workers.
func (f *FastPath) Serve(ws *workers.Set) { f.workers.Store(ws) }

// datapath is how established flows are forwarded, and why.
type datapath struct {
	core.DatapathType
	reason string
}

func (f *FastPath) String() string { return "fast path" }

// Kernel returns what is in the kernel, nil while it is off.
func (f *FastPath) Kernel() *fastpath.Balancer { return f.balancer.Load() }

// Datapath returns how established flows are forwarded, and why.
func (f *FastPath) Datapath() (core.DatapathType, string) {
	if k := f.kind.Load(); k != nil {
		return k.DatapathType, k.reason
	}
	return core.Userspace, "not started"
}

func (f *FastPath) is(kind core.DatapathType, reason string) { f.kind.Store(&datapath{kind, reason}) }

// Open turns it on if the settings want it and the kernel has it.
func (f *FastPath) Open(s *core.Settings) error {
	if s.Type == core.Userspace {
		f.is(core.Userspace, "as configured")
		return nil
	}
	b, err := fastpath.Open(fastpath.Config{StateDir: f.StateDir, Settings: s, Log: f.Log, Known: f.giveFlows})
	if err == nil {
		f.balancer.Store(b)
		f.opened = true
		f.note(s)
		return nil
	}
	return f.without(s, err)
}

// without goes on in userspace, if the settings allow that.
func (f *FastPath) without(s *core.Settings, why error) error {
	if s.Type != core.Auto {
		return fmt.Errorf("datapath type %s: %w", s.Type, why)
	}
	f.failed = s
	f.is(core.Userspace, why.Error())
	f.Log.Warn("established flows stay in userspace", "why", why)
	return nil
}

func (f *FastPath) note(s *core.Settings) {
	switch s.Type {
	case core.Auto:
		f.is(core.TC, "auto takes tc; xdp has to be asked for")
	default:
		f.is(s.Type, "as configured")
	}
}

// Try loads the programs once for a snapshot.
func (f *FastPath) Try(s *core.Snapshot) error {
	b := f.Kernel()
	if b == nil {
		return nil
	}
	err := b.Try(s)
	if err == nil {
		return nil
	}
	if s.Settings.Type != core.Auto {
		return f.without(s.Settings, err)
	}
	return errors.Join(f.Abandon(), f.without(s.Settings, err))
}

// LoadState returns what a predecessor saved beside its flows, nil if there are
// none.
func (f *FastPath) LoadState() (*state.Saved, error) {
	b := f.Kernel()
	if b == nil || !b.Inherited {
		return nil, nil
	}
	data, err := b.LoadState()
	if err != nil {
		return nil, err
	}
	return state.Decode(data)
}

// StartAnew gives a predecessor's flows up.
func (f *FastPath) StartAnew(s *core.Settings) error {
	if err := f.Close(); err != nil {
		return err
	}
	return f.Open(s)
}

// Add implements reconcile.Target.
func (f *FastPath) Add(ctx context.Context, was, want *core.Snapshot) error {
	if want.Settings.Type == core.Userspace {
		f.is(core.Userspace, "as configured")
		return f.turnOff()
	}
	if f.Kernel() == nil {
		if f.failed != nil && *f.failed == *want.Settings {
			return nil
		}
		if err := f.Open(want.Settings); err != nil || f.Kernel() == nil {
			return err
		}
	}
	if f.opened {
		was = nil
	}
	b := f.Kernel()
	if err := b.Add(ctx, was, want); err != nil {
		if want.Settings.Type != core.Auto || b.Attached() {
			return err
		}
		return errors.Join(f.Abandon(), f.without(want.Settings, err))
	}
	f.opened = false
	if was == nil || was.Services != want.Services {
		select {
		case f.changed <- struct{}{}:
		default:
		}
	}
	f.note(want.Settings)
	return nil
}

// Hold keeps the fast path from being turned off, until what it returns is called.
// The reconcile loop and the workers need no such hold: the one turns it off, and
// the others are waited for.
func (f *FastPath) Hold() (release func()) {
	f.using.RLock()
	return f.using.RUnlock
}

// turnOff gives all flows to the workers.
func (f *FastPath) turnOff() error {
	f.using.Lock()
	defer f.using.Unlock()
	b := f.balancer.Swap(nil)
	if b == nil {
		return nil
	}
	if ws := f.workers.Load(); ws != nil {
		f.takeFlows(ws, b)
	}
	b.Counters(f.before)
	for _, svc := range f.Snapshot().Services.List {
		f.denied[svc.Name] = f.refused(b, svc)
	}
	f.found.Store(nil)
	return b.Close()
}

// Refused returns how many packets of a service's new flows all programs have dropped.
// The caller holds the fast path.
func (f *FastPath) Refused(svc *core.Service) fastpath.Refusals { return f.refused(f.Kernel(), svc) }

func (f *FastPath) refused(b *fastpath.Balancer, svc *core.Service) fastpath.Refusals {
	r := f.denied[svc.Name]
	if b != nil {
		now := b.Refusals(svc.ID)
		r.Denied, r.Limited = r.Denied+now.Denied, r.Limited+now.Limited
	}
	return r
}

// Collections returns how long collections took.
func (f *FastPath) Collections() (d counters.Distribution) {
	d.Add(&f.rounds)
	return d
}

// Fills returns how full the kernel's maps are, nothing while it is off. The caller
// holds the fast path.
func (f *FastPath) Fills() []fastpath.Fill {
	if b := f.Kernel(); b != nil {
		return b.Fills(f.found.Load())
	}
	return nil
}

// CountedAt returns when the last collection began that is over: all flows that
// the kernel had then are counted. The workers' are at any time.
func (f *FastPath) CountedAt() time.Time {
	if f.Kernel() == nil {
		return time.Now()
	}
	if at := f.counted.Load(); at != nil {
		return *at
	}
	return time.Time{}
}

// Counted adds what all programs have counted to a map by name. The caller holds
// the fast path.
func (f *FastPath) Counted(m map[string]uint64) {
	for name, n := range f.before {
		m[name] += n
	}
	if b := f.Kernel(); b != nil {
		b.Counters(m)
	}
	if f.Liveness != nil {
		f.Liveness.AddTo(m)
	}
}

// Heartbeat tells the programs that this process lives.
func (f *FastPath) Heartbeat(context.Context) error {
	defer f.Hold()()
	b := f.Kernel()
	if b == nil || !b.Attached() || f.leaving.Load() {
		return nil
	}
	return b.Heartbeat()
}

// Leave lets the kernel go on alone: no new flow comes up any more, before
// nobody listens to what does.
func (f *FastPath) Leave() error {
	f.leaving.Store(true)
	if b := f.Kernel(); b != nil {
		return b.StopUpcalls()
	}
	return nil
}

// Prune implements reconcile.Target.
func (f *FastPath) Prune(ctx context.Context, was, want *core.Snapshot) error {
	b := f.Kernel()
	if b == nil {
		return nil
	}
	replaced := b.Replaced
	err := b.Prune(ctx, was, want)
	if b.Replaced && !replaced {
		f.Log.Warn("flows that another version left in the kernel are dropped: its maps have another layout; consistent policies keep them together")
	}
	return err
}

// Verify implements reconcile.Target.
func (f *FastPath) Verify(ctx context.Context, want *core.Snapshot) error {
	if b := f.Kernel(); b != nil {
		return b.Verify(ctx, want)
	}
	return nil
}

// Close turns it off and forgets its flows.
func (f *FastPath) Close() error {
	if b := f.balancer.Swap(nil); b != nil {
		return b.Close()
	}
	return nil
}

// Release leaves it at work for a successor.
func (f *FastPath) Release() error {
	if b := f.balancer.Swap(nil); b != nil {
		return b.Release()
	}
	return nil
}

// Abandon gives it up without touching what a predecessor left.
func (f *FastPath) Abandon() error {
	if b := f.Kernel(); b != nil && b.Inherited {
		return f.Release()
	}
	return f.turnOff()
}
