// Package fastpath forwards the packets of known flows in the kernel: on the
// balancer a program puts them into the tunnel or sends them to the backend's
// MAC, on a backend another takes them out of the tunnel. Userspace offloads
// each flow once; from then on the flow lives in the kernel's maps alone, until
// garbage collection finds it closed or silent. It is the only importer of
// cilium/ebpf.
//
// A Balancer is a reconcile.Target: it makes the kernel's programs and maps as
// a core.Snapshot says.
//
//	b, err := fastpath.Open(fastpath.Config{StateDir: "/run/caplance", Log: log})
//	err = b.Add(ctx, nil, snapshot)
//	o := b.Offloader()                     // one for each worker
//	ok := o.Add(&key, service, handle, 1, size) // from the next Flush on its packets stay in the kernel
package fastpath

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caplance/caplance/core"
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
)

// Config is what a balancer's fast path is made with.
type Config struct {
	StateDir string // names the pins, which outlive the process
	Settings *core.Settings
	Log      *slog.Logger // nil discards

	// Known puts the flows that userspace has into the kernel's tables, by Put,
	// before the programs are attached for the first time: they would place them
	// anew. nil: there are none.
	Known func(b *Balancer)
}

// Balancer is the programs at the ingress of the balancer's links. Add, Prune,
// Verify, Release and Close are called one at a time; the other methods may be
// called concurrently with them and each other.
type Balancer struct {
	log         *slog.Logger
	known       func(*Balancer)
	windows     uint64 // in a second, of services' budgets
	pins        *pins
	clock       *clock
	hooks       map[hookKey]hook
	attachments atomic.Pointer[map[int]string] // of the programs by link, in words
	gen         *generation                    // at work; nil before the first
	shared      atomic.Pointer[sharedMaps]
	saved       *ebpf.Map     // nil: nothing was saved yet
	spent       []*sharedMaps // replaced by others, and perhaps still in a worker's hand

	view     atomic.Pointer[view] // for those who work on flows
	attached atomic.Bool          // the programs work by this process' state
	given    atomic.Uint64        // flows that workers have offloaded

	mu       sync.Mutex
	targets  []balanceTarget                 // as the kernel has them, by slot
	lookups  map[core.ServiceID]*lookupTable // likewise
	unlinked map[core.ServiceID]*lookupTable // those that the generation at work does not know
	confs    map[core.ServiceID]balanceService
	tries    map[*core.Clients]*ebpf.Map // lists that services have, open
	refusals map[core.ServiceID]Refusals // of generations that are gone
	refusing *ebpf.Map                   // of the one at work; nil before the first

	// Inherited says that a predecessor's flows were found, and that its
	// program goes on until the snapshot is complete.
	Inherited bool
	// Replaced says that a predecessor's programs were taken away whose maps
	// had another layout: its flows are lost.
	Replaced bool
}

// view is what one needs to find a flow.
type view struct {
	flows, pending *ebpf.Map
	vips           *vipNumbers
}

// Open finds or makes the maps, a predecessor's where there are some with the
// same layout. It attaches nothing, and a predecessor's programs go on.
//
// Errors: no right to load BPF, no file system to pin to, a kernel without what
// the programs need.
func Open(cfg Config) (_ *Balancer, err error) {
	if err := rlimit.RemoveMemlock(); err != nil { // kernels before 5.11 account maps there
		return nil, fmt.Errorf("fast path: memory lock limit: %w", err)
	}
	b := &Balancer{log: cfg.Log, known: cfg.Known, windows: windows, hooks: map[hookKey]hook{}, lookups: map[core.ServiceID]*lookupTable{}, unlinked: map[core.ServiceID]*lookupTable{}, confs: map[core.ServiceID]balanceService{}, tries: map[*core.Clients]*ebpf.Map{}, refusals: map[core.ServiceID]Refusals{}}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	if err := featureRedirect.Have(); err != nil {
		return nil, fmt.Errorf("fast path: %w", err)
	}
	if b.pins, err = openPins(balancerPins, cfg.StateDir); err != nil {
		return nil, err
	}
	if b.clock, err = newClock(); err != nil {
		return nil, errors.Join(err, b.removePins())
	}
	spec, err := loadBalance()
	if err == nil {
		var m *sharedMaps
		m, b.Inherited, err = openMaps(spec, b.pins.dir(), cfg.Settings)
		b.shared.Store(m)
	}
	if err == nil {
		err = b.readTargets()
	}
	if err != nil {
		return nil, errors.Join(err, b.maps().close(), b.clock.close(), b.removePins())
	}
	b.view.Store(&view{b.maps().Flows, b.maps().Pending, &vipNumbers{}})
	return b, nil
}

// removePins takes away what this process pinned, not what a predecessor did.
func (b *Balancer) removePins() error {
	if b.Inherited {
		return nil
	}
	return b.pins.remove()
}

func (b *Balancer) String() string { return "fastpath" }

// Fleeting reports whether a restart will lose the flows: the process has a
// mount namespace of its own and no lasting place for pins in it.
func (b *Balancer) Fleeting() bool { return b.pins.Fleeting }

// Attached reports whether the programs work by this process' state, not by a
// predecessor's.
func (b *Balancer) Attached() bool { return b.attached.Load() }

// Given returns how many flows the workers have offloaded, ever.
func (b *Balancer) Given() uint64 { return b.given.Load() }

// At returns by what the programs are attached to a link: tcx or clsact, and
// xdp; "" where they are not.
func (b *Balancer) At(link int) string {
	if at := b.attachments.Load(); at != nil {
		return (*at)[link]
	}
	return ""
}

func (b *Balancer) noteHow() {
	at := map[int]string{}
	for _, k := range slices.SortedFunc(maps.Keys(b.hooks), func(x, y hookKey) int { return cmp.Compare(b.hooks[x].how(), b.hooks[y].how()) }) {
		if at[k.index] != "" {
			at[k.index] += " and "
		}
		at[k.index] += b.hooks[k].how()
	}
	b.attachments.Store(&at)
}

// Try loads the programs for a snapshot and forgets them: whether this kernel
// takes them is known before the machine is changed.
func (b *Balancer) Try(s *core.Snapshot) error {
	g, err := b.loadGeneration(b.maps(), s)
	if err != nil {
		return err
	}
	return g.close()
}

// Add implements reconcile.Target. VIPs and services are put in place by
// another generation of the programs, backends in the maps of all of them.
// While a predecessor's backends are missing its program goes on, with the
// backends that are back.
func (b *Balancer) Add(_ context.Context, was, want *core.Snapshot) error {
	if !b.pins.there() {
		if err := b.remount(); err != nil {
			return err
		}
	}
	if b.gen == nil || was == nil {
		b.view.Store(&view{b.maps().Flows, b.maps().Pending, numberVIPs(want.VIPs)})
	}
	if b.Inherited && !want.Complete && b.gen == nil {
		return b.setPools(was, want)
	}
	if err := b.nextGeneration(was, want); err != nil {
		return err
	}
	if err := b.attach(b.gen, want.Links.List); err != nil {
		return err
	}
	b.noteHow()
	b.attached.Store(true)
	return nil
}

// nextGeneration loads another generation if the snapshot takes one and puts it
// in the place of the one at work; then the maps are as the snapshot says.
func (b *Balancer) nextGeneration(was, want *core.Snapshot) error {
	next, moves, err := b.resize(want.Settings)
	if err != nil {
		return err
	}
	if b.gen != nil && len(moves) == 0 && (sameShape(was, want) || b.gen.shape.equal(shapeOf(want))) {
		return errors.Join(b.setServices(b.gen, want), b.setPools(was, want))
	}
	g, err := b.loadGeneration(next, want)
	if err != nil {
		return err
	}
	before, old := b.gen, b.maps()
	b.shared.Store(next)
	b.confs = map[core.ServiceID]balanceService{} // the new maps know of none
	if err := errors.Join(b.setPools(nil, want), b.setServices(g, want), b.linkLookups(g), b.Heartbeat(), b.takeKnown(), b.attach(g, want.Links.List)); err != nil {
		b.shared.Store(old)
		b.confs = map[core.ServiceID]balanceService{}
		return errors.Join(err, g.close())
	}
	b.gen, b.unlinked = g, map[core.ServiceID]*lookupTable{}
	b.view.Store(&view{b.maps().Flows, b.maps().Pending, g.vips})
	if len(moves) > 0 {
		err = b.finish(moves, old)
	}
	b.keepRefusals(g, want)
	return errors.Join(err, before.close())
}

// takeKnown takes the flows over that userspace has, once.
func (b *Balancer) takeKnown() error {
	if b.known != nil && !b.attached.Load() {
		b.known(b)
		b.known = nil
	}
	return nil
}

// resize returns the shared maps with the sizes that the settings want. To read
// the programs' description takes a millisecond.
func (b *Balancer) resize(s *core.Settings) (*sharedMaps, []move, error) {
	if b.maps().fit(s) {
		return b.maps(), nil, nil
	}
	spec, err := loadBalance()
	if err != nil {
		return nil, nil, err
	}
	return b.maps().resized(spec, s)
}

// maps returns the shared ones in use.
func (b *Balancer) maps() *sharedMaps { return b.shared.Load() }

// finish copies what came into the old maps while the programs still used them.
// Workers may hold them for a moment longer: they are closed with the balancer.
func (b *Balancer) finish(moves []move, old *sharedMaps) error {
	b.spent = append(b.spent, old)
	var errs []error
	for i := range moves {
		errs = append(errs, moves[i].copy(), moves[i].pin(b.pins.dir()))
	}
	return errors.Join(errs...)
}

// Prune implements reconcile.Target: what the snapshot does not name goes, and
// what programs with other layouts left.
func (b *Balancer) Prune(_ context.Context, was, want *core.Snapshot) error {
	if b.gen == nil || was != nil && was.Links == want.Links && was.Services == want.Services && was.Settings == want.Settings &&
		was.Pools.SameMembers(want.Pools) {
		return nil // other tables alone leave nothing behind
	}
	keep := func(k hookKey) bool {
		return slices.ContainsFunc(want.Links.List, func(l core.Link) bool { return b.gen.programs(l)[k] != nil })
	}
	pinned := map[string]bool{}
	for k := range b.hooks {
		if keep(k) {
			pinned[k.pin()] = true
		}
	}
	found, err := b.pins.dropOldLayouts()
	b.Replaced = b.Replaced || found
	if was == nil {
		err = errors.Join(err, dropFiltersBut(b.maps().Flows, func(index int) bool { return keep(hookKey{index, false}) }))
	}
	return errors.Join(err, b.detach(keep), b.pins.dropOthers(func(name string) bool { return pinned[name] }), b.pruneTargets(want), b.pruneLookups(want), b.closeTries(b.gen))
}

// Heartbeat tells the programs that the daemon is alive and takes new flows.
func (b *Balancer) Heartbeat() error {
	if err := b.clock.sync(); err != nil {
		return err
	}
	if err := b.maps().Heartbeat.Put(uint32(0), b.clock.now()); err != nil {
		return fmt.Errorf("fast path: heartbeat: %w", err)
	}
	return nil
}

// StopUpcalls has the programs place new flows themselves from now on.
func (b *Balancer) StopUpcalls() error {
	if err := b.maps().Heartbeat.Put(uint32(0), uint64(0)); err != nil {
		return fmt.Errorf("fast path: heartbeat: %w", err)
	}
	return nil
}

// Release closes everything and leaves the programs at work for a successor.
func (b *Balancer) Release() error {
	err := b.StopUpcalls()
	for _, h := range b.hooks {
		err = errors.Join(err, h.release())
	}
	return errors.Join(err, b.free())
}

// Close detaches the programs and forgets the flows: packets go by userspace
// again.
func (b *Balancer) Close() error {
	b.attached.Store(false)
	errs := []error{b.detach(func(hookKey) bool { return false })}
	if b.Inherited {
		errs = append(errs, dropFilters(b.maps().Flows)) // a predecessor's, if it was never taken over
	}
	return errors.Join(append(errs, b.pins.remove(), b.free())...)
}

// free closes programs and maps; what is pinned stays.
func (b *Balancer) free() error {
	b.mu.Lock()
	b.refusing = nil
	b.mu.Unlock()
	errs := []error{b.gen.close(), b.maps().close(), b.clock.close(), b.saved.Close()}
	for _, m := range b.spent {
		for name, mp := range m.byName() {
			if *mp != *b.maps().byName()[name] {
				errs = append(errs, (*mp).Close())
			}
		}
	}
	for _, l := range b.lookups {
		errs = append(errs, l.m.Close())
	}
	errs = append(errs, b.closeTries(nil))
	return errors.Join(errs...)
}

// pinPath returns where a map is pinned.
func (b *Balancer) pinPath(name string) string { return filepath.Join(b.pins.dir(), name) }
