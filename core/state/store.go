// Package state holds the desired state: sources write it, revisions come out.
// A source changes a Draft, all or nothing; what follows from it, the services'
// pools with their handles, the VIPs with their links, is derived here, and
// parts that do not change are shared with the revision before.
package state

import (
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/core"
)

// Store is the desired state. Its methods may be called concurrently.
type Store struct {
	// Ours reports whether this process, or a predecessor, put an address on the
	// link with an index; nil: all that are VIPs. Set it before the first Update.
	Ours func(link int, a netip.Addr) bool

	log  *slog.Logger
	snap atomic.Pointer[core.Snapshot]

	mu       sync.Mutex
	in       inputs
	full     []core.Backend // in.backends with their paths
	services *numbers[string]
	vips     *numbers[string] // by address
	slots    *core.Slots
	held     map[core.ServiceID]map[string]*holder
	kept     map[string]*keptPool        // a predecessor's, by service, until they are back or given up
	late     map[string]*core.LateLookup // a predecessor's, after that, until there are tables of who is back
	versions uint64                      // of pools
	outs     map[core.AdminKey]time.Time // when who was held out by the operator came back; zero: not yet
	waiting  []string                    // sources that have not spoken yet
	notify   []func(*core.Snapshot)
}

// New returns an empty state that is complete once these sources have called
// Draft.Done.
func New(log *slog.Logger, sources ...string) *Store {
	s := &Store{
		log: log, waiting: slices.Clone(sources),
		services: newNumbers[string](core.MaxServices), vips: newNumbers[string](1 << 16),
		slots: core.NewSlots(), held: map[core.ServiceID]map[string]*holder{}, kept: map[string]*keptPool{},
		outs: map[core.AdminKey]time.Time{},
	}
	s.snap.Store(&core.Snapshot{
		Settings: &core.Settings{}, Services: core.NewServiceSet(nil), Pools: core.NewPoolSet(), VIPs: &core.VIPSet{}, Links: &core.LinkSet{},
	})
	return s
}

// Snapshot returns the current revision. It is one atomic load.
func (s *Store) Snapshot() *core.Snapshot { return s.snap.Load() }

// Notify registers f, which is called with each new revision, in order. It must not block, and
// must not call Update.
func (s *Store) Notify(f func(*core.Snapshot)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notify = append(s.notify, f)
	f(s.Snapshot())
}

// Update lets a source change the state: all of it, or nothing if fn returns an
// error. It returns the revision that holds the change, which is the current one
// when nothing changed. The source's name is for the log.
func (s *Store) Update(source string, fn func(*Draft) error) (revision uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := &Draft{in: s.in, store: s}
	if err := fn(d); err != nil {
		return s.Snapshot().Revision, err
	}
	was := s.Snapshot()
	for _, done := range d.done {
		s.waiting = slices.DeleteFunc(s.waiting, func(w string) bool { return w == done })
	}
	next := s.derive(was, &d.in, d)
	s.in = d.in
	if next == nil {
		return was.Revision, nil
	}
	next.Revision = was.Revision + 1
	s.snap.Store(next)
	s.log.Debug("state changed", "source", source, "revision", next.Revision)
	for _, f := range s.notify {
		f(next)
	}
	return next.Revision, nil
}

// Waiting returns the sources that have not spoken yet.
func (s *Store) Waiting() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.waiting)
}

// numbers gives small stable numbers to keys.
type numbers[K comparable] struct {
	of   map[K]uint16
	used map[uint16]bool
	max  int
}

func newNumbers[K comparable](limit int) *numbers[K] {
	return &numbers[K]{map[K]uint16{}, map[uint16]bool{}, limit}
}

// take returns the number of a key, the lowest free one for a new key.
func (n *numbers[K]) take(k K) uint16 {
	if v, ok := n.of[k]; ok {
		return v
	}
	v := uint16(0)
	for n.used[v] && int(v) < n.max-1 {
		v++
	}
	n.of[k], n.used[v] = v, true
	return v
}

// reserve gives a key the number that it had. It reports false if another has
// it.
func (n *numbers[K]) reserve(k K, v uint16) bool {
	if n.used[v] || int(v) >= n.max {
		return false
	}
	n.of[k], n.used[v] = v, true
	return true
}

// keep frees the numbers of the keys that are not wanted.
func (n *numbers[K]) keep(wanted func(K) bool) {
	for k, v := range n.of {
		if !wanted(k) {
			delete(n.of, k)
			delete(n.used, v)
		}
	}
}
