// Package manager keeps the services' policies: which version schedules a
// service on each worker, what a swap puts in its place and a rollback brings
// back, the shadows, and the tables that are built off the packet path.
package manager

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caplance/caplance/core/state"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/policies"
)

// Config is what a Manager is made with.
type Config struct {
	Store   *state.Store
	Workers int
	Limits  host.Limits
	Log     *slog.Logger
	// Compiler is how to start host.RunCompiler, which compiles policies out of
	// files in a process of its own, into CompiledDir; nil: this process does.
	Compiler    []string
	CompiledDir string
	// InWorker runs fn between two batches of a worker and waits for it. It
	// fails when the worker does not come to it in time; fn still runs then. nil
	// while no worker runs.
	InWorker func(worker int, fn func()) error
}

// Manager keeps the policies. Its methods may be called concurrently.
type Manager struct {
	cfg      Config
	compiler *host.Compiler // nil: this process compiles
	clocks   *host.Clocks   // that slow picks are told by
	wake     chan struct{}  // a table may have to be built

	changing sync.Mutex // one change at a time
	runtime  *host.Runtime
	limits   host.Limits
	spent    []*host.Runtime // of other limits; their modules may still be in use
	loaded   map[[sha256.Size]byte]*module

	mu       sync.RWMutex // guards what follows
	services map[string]*Service
}

// module is a compiled policy and how many versions use it.
type module struct {
	policy *host.Policy
	refs   int
}

// version is one choice of policy for a service.
type version struct {
	spec   string // as configured or asked for
	config []byte // policy_config as JSON
	sum    [sha256.Size]byte
	module *module
	policy *host.Policy
	since  time.Time
}

// Service is what schedules one service's flows.
type Service struct {
	name       string
	seed       uint64
	schedulers []*host.Scheduler // by worker

	recording sync.Mutex // held while it is recorded

	mu                        sync.Mutex // guards what follows
	current, previous, shadow *version
	table                     tableState
}

// New starts without services.
func New(ctx context.Context, cfg Config) (*Manager, error) {
	var compiler *host.Compiler
	if cfg.Compiler != nil {
		var err error
		if compiler, err = host.NewCompiler(cfg.Compiler, cfg.CompiledDir); err != nil {
			return nil, err
		}
	}
	rt, err := compiler.NewRuntime(ctx, cfg.Limits)
	if err != nil {
		return nil, errors.Join(err, compiler.Close())
	}
	return &Manager{
		cfg: cfg, compiler: compiler, clocks: host.RealClocks(), wake: make(chan struct{}, 1), runtime: rt, limits: cfg.Limits,
		loaded: map[[sha256.Size]byte]*module{}, services: map[string]*Service{},
	}, nil
}

// Start sets how functions get between the batches of the workers, which run
// from now on.
func (m *Manager) Start(inWorker func(worker int, fn func()) error) {
	m.changing.Lock()
	defer m.changing.Unlock()
	m.cfg.InWorker = inWorker
}

// Grow starts every policy for more workers, if there are not that many yet.
func (m *Manager) Grow(ctx context.Context, workers int) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	before := m.cfg.Workers
	if workers <= before {
		return nil
	}
	m.cfg.Workers = workers
	more := map[*Service][]*host.Scheduler{}
	for _, name := range m.names() {
		sp := m.get(name)
		list, err := m.schedulersFrom(ctx, sp, before)
		if err != nil {
			m.cfg.Workers = before
			for _, list := range more {
				closeAll(list)
			}
			return fmt.Errorf("service %q: %w", name, err)
		}
		more[sp] = list
	}
	for sp, list := range more {
		sp.mu.Lock()
		sp.schedulers = append(slices.Clone(sp.schedulers), list...)
		sp.mu.Unlock()
	}
	return nil
}

// schedulersFrom starts a service's policy and shadow for the workers from one
// on.
func (m *Manager) schedulersFrom(ctx context.Context, sp *Service, first int) (out []*host.Scheduler, err error) {
	for w := first; w < m.cfg.Workers; w++ {
		sched, err := sp.current.policy.NewScheduler(ctx, m.config(sp, sp.current, w))
		if err != nil {
			closeAll(out)
			return nil, err
		}
		out = append(out, sched)
		if sp.shadow == nil {
			continue
		}
		sh, err := sp.shadow.policy.NewScheduler(ctx, m.config(sp, sp.shadow, w))
		if err != nil {
			closeAll(out)
			return nil, err
		}
		sched.SetShadow(sh)
	}
	return out, nil
}

func closeAll(list []*host.Scheduler) {
	for _, s := range list {
		_ = s.Close()
	}
}

// all returns the service's schedulers, by worker.
func (sp *Service) all() []*host.Scheduler {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return sp.schedulers
}

// Scheduler returns a worker's scheduler of a service, nil if it has none.
func (m *Manager) Scheduler(worker int, service string) *host.Scheduler {
	sp := m.get(service)
	if sp == nil {
		return nil
	}
	if list := sp.all(); worker < len(list) {
		return list[worker]
	}
	return nil
}

func (m *Manager) get(service string) *Service {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.services[service]
}

// find returns a service, or an error that lists those that there are.
func (m *Manager) find(service string) (*Service, error) {
	if sp := m.get(service); sp != nil {
		return sp, nil
	}
	return nil, fmt.Errorf("service %q is unknown (services: %s)", service, strings.Join(m.names(), ", "))
}

func (m *Manager) names() []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var names []string
	for name := range m.services {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// config returns what a worker's scheduler of a version is made with.
func (m *Manager) config(sp *Service, v *version, worker int) host.Config {
	return host.Config{
		Worker: worker, Workers: m.cfg.Workers, Seed: sp.seed, ConfigJSON: v.config,
		Log: m.cfg.Log.With("service", sp.name), Clocks: m.clocks,
	}
}

// load reads and compiles a policy; the same bytes are compiled once.
func (m *Manager) load(ctx context.Context, spec string, config []byte) (*version, error) {
	name, wasm, err := policies.LoadWithin(spec, m.limits.ModuleBytes)
	if err != nil {
		return nil, err
	}
	v := &version{spec: spec, config: config, sum: sha256.Sum256(wasm), since: time.Now()}
	mod := m.loaded[v.sum]
	if mod == nil {
		compile := m.runtime.Compile
		if policies.Bundled(spec) {
			compile = m.runtime.CompileBundled
		}
		policy, err := compile(ctx, name, wasm)
		if err != nil {
			return nil, err
		}
		mod = &module{policy: policy}
		m.loaded[v.sum] = mod
	}
	mod.refs++
	v.module, v.policy = mod, mod.policy
	return v, nil
}

// warm compiles a policy before anything is locked for it: that may take a
// minute, and ctx ends it. load then only takes what is ready. If the file or the
// limits change in between, load does it all.
//
// Errors are those of load.
func (m *Manager) warm(ctx context.Context, spec string) error {
	m.changing.Lock()
	w := warmer{m, m.runtime, m.limits}
	m.changing.Unlock()
	return w.warm(ctx, spec)
}

// warmer does so for a runtime.
type warmer struct {
	m       *Manager
	runtime *host.Runtime
	limits  host.Limits
}

func (w *warmer) warm(ctx context.Context, spec string) error {
	if w.m.compiler == nil || spec == "" || policies.Bundled(spec) {
		return nil
	}
	name, wasm, err := policies.LoadWithin(spec, w.limits.ModuleBytes)
	if err != nil {
		return err
	}
	w.m.changing.Lock()
	loaded := w.runtime == w.m.runtime && w.m.loaded[sha256.Sum256(wasm)] != nil
	w.m.changing.Unlock()
	if loaded {
		return nil
	}
	return w.runtime.Warm(ctx, name, wasm)
}

// loadShadow loads a policy that is to be a shadow.
func (m *Manager) loadShadow(ctx context.Context, spec string) (*version, error) {
	v, err := m.load(ctx, spec, nil)
	if err == nil && v.policy.HasTable() {
		m.drop(v)
		return nil, fmt.Errorf("policy %q fills a table and is not asked for picks: it cannot be a shadow", spec)
	}
	return v, err
}

// drop gives a version up, nil for none.
func (m *Manager) drop(v *version) {
	if v == nil {
		return
	}
	if v.module.refs--; v.module.refs > 0 {
		return
	}
	if m.loaded[v.sum] == v.module {
		delete(m.loaded, v.sum)
	}
	if err := v.policy.Close(context.Background()); err != nil {
		m.cfg.Log.Warn("policy not freed", "policy", v.policy.Name(), "err", err)
	}
}

// same reports whether a specification still means what v, nil for nothing, is.
func (m *Manager) same(v *version, spec string, config []byte) bool {
	if v == nil || v.spec != spec || !bytes.Equal(v.config, config) {
		return false
	}
	_, wasm, err := policies.LoadWithin(spec, m.limits.ModuleBytes)
	return err == nil && sha256.Sum256(wasm) == v.sum
}

// schedulersFor tries a version for every worker; its instances start with the
// first packets.
func (m *Manager) schedulersFor(ctx context.Context, sp *Service, v *version) (out []*host.Scheduler, err error) {
	for w := range m.cfg.Workers {
		sched, err := v.policy.NewScheduler(ctx, m.config(sp, v, w))
		if err != nil {
			for _, s := range out {
				err = errors.Join(err, s.Close())
			}
			return nil, err
		}
		sched.Rest()
		out = append(out, sched)
	}
	return out, nil
}

// inWorker runs fn between two batches of a worker, or now if none runs.
func (m *Manager) inWorker(worker int, fn func()) error {
	if m.cfg.InWorker == nil {
		fn()
		return nil
	}
	return m.cfg.InWorker(worker, fn)
}

// Forget ends the policies of services that are not wanted any more. No worker
// may use them.
func (m *Manager) Forget(wanted func(service string) bool) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	m.mu.Lock()
	var gone []*Service
	for name, sp := range m.services {
		if !wanted(name) {
			gone = append(gone, sp)
			delete(m.services, name)
		}
	}
	m.mu.Unlock()
	var errs []error
	for _, sp := range gone {
		errs = append(errs, m.end(sp))
	}
	return errors.Join(errs...)
}

func (m *Manager) end(sp *Service) error {
	var errs []error
	for _, s := range sp.schedulers {
		errs = append(errs, s.Close())
	}
	for _, v := range []*version{sp.current, sp.previous, sp.shadow} {
		m.drop(v)
	}
	return errors.Join(errs...)
}

// Close ends everything. No worker may run.
func (m *Manager) Close() error {
	err := m.Forget(func(string) bool { return false })
	for _, rt := range append(m.spent, m.runtime) {
		err = errors.Join(err, rt.Close(context.Background()))
	}
	return errors.Join(err, m.compiler.Close())
}
