package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/plugins/host"
)

// Change is a set of policies that is ready to take over. Commit or Discard
// must follow.
type Change struct {
	m      *Manager
	added  []*Service
	swaps  []*swap
	unlock func()

	// Other limits take another runtime, which the manager has from the
	// beginning: these are the ones before.
	runtime *host.Runtime
	limits  host.Limits
}

// swap is a new version, or a new shadow, of one service.
type swap struct {
	sp   *Service
	seed uint64
	v    *version // nil: the policy stays
	next []*host.Next

	setShadow bool
	shadow    *version // nil: none
	shadows   []*host.Scheduler
}

// Prepare compiles and tries the policies of these services, as far as they are
// new or changed. Nothing has changed yet; nobody else can change policies until
// Commit or Discard.
//
// Errors name the services, all that are bad.
func (m *Manager) Prepare(ctx context.Context, services []*core.Service, limits host.Limits) (_ *Change, err error) {
	if err := m.warmAll(ctx, services, limits); err != nil {
		return nil, err
	}
	m.changing.Lock()
	c := &Change{m: m, unlock: m.changing.Unlock}
	defer func() {
		if err != nil {
			c.Discard()
		}
	}()
	if limits != m.limits {
		if err := c.otherLimits(ctx, limits); err != nil {
			return nil, err
		}
	}
	for _, svc := range services {
		if bad := c.prepare(ctx, svc); bad != nil {
			err = errors.Join(err, fmt.Errorf("service %q: %w", svc.Name, bad))
		}
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// warmAll compiles the policies that are new; with other limits all of them, for a
// runtime that has these.
func (m *Manager) warmAll(ctx context.Context, services []*core.Service, limits host.Limits) (err error) {
	if m.compiler == nil {
		return nil
	}
	m.changing.Lock()
	w := warmer{m, m.runtime, m.limits}
	m.changing.Unlock()
	if limits != w.limits {
		w.limits = limits
		if w.runtime, err = m.compiler.NewRuntime(ctx, limits); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, w.runtime.Close(ctx)) }()
	}
	for _, svc := range services {
		for _, spec := range []string{svc.Policy, svc.Shadow} {
			if bad := w.warm(ctx, spec); bad != nil {
				err = errors.Join(err, fmt.Errorf("service %q: %w", svc.Name, bad))
			}
		}
	}
	return err
}

// otherLimits makes a runtime with other limits: every policy is compiled anew.
func (c *Change) otherLimits(ctx context.Context, limits host.Limits) error {
	rt, err := c.m.compiler.NewRuntime(ctx, limits)
	if err != nil {
		return err
	}
	c.runtime, c.m.runtime = c.m.runtime, rt
	c.limits, c.m.limits = c.m.limits, limits
	c.m.loaded = map[[32]byte]*module{}
	return nil
}

func (c *Change) prepare(ctx context.Context, svc *core.Service) error {
	sp := c.m.get(svc.Name)
	if sp == nil {
		return c.add(ctx, svc)
	}
	s := &swap{sp: sp, seed: svc.Seed}
	c.swaps = append(c.swaps, s)
	if c.runtime != nil || sp.seed != svc.Seed || !c.m.same(sp.current, svc.Policy, svc.Config) {
		if err := c.m.prepareSwap(ctx, s, svc.Policy, svc.Config); err != nil {
			return err
		}
	}
	have := ""
	if sp.shadow != nil {
		have = sp.shadow.spec
	}
	if svc.Shadow != have || svc.Shadow != "" && (c.runtime != nil || !c.m.same(sp.shadow, svc.Shadow, nil)) {
		return c.m.prepareShadow(ctx, s, svc.Shadow)
	}
	return nil
}

// add gives a new service its first policy.
func (c *Change) add(ctx context.Context, svc *core.Service) error {
	m := c.m
	v, err := m.load(ctx, svc.Policy, svc.Config)
	if err != nil {
		return err
	}
	sp := &Service{name: svc.Name, seed: svc.Seed, current: v}
	if sp.schedulers, err = m.schedulersFor(ctx, sp, v); err != nil {
		m.drop(v)
		return err
	}
	c.added = append(c.added, sp)
	if svc.Shadow == "" {
		return nil
	}
	s := &swap{sp: sp, seed: svc.Seed}
	if err := m.prepareShadow(ctx, s, svc.Shadow); err != nil {
		return err
	}
	sp.shadow = s.shadow
	for w, sched := range sp.schedulers { // no worker knows it yet
		sched.SetShadow(s.shadows[w])
	}
	return nil
}

// prepareSwap loads a version and tries it on the live pool.
func (m *Manager) prepareSwap(ctx context.Context, s *swap, spec string, config []byte) error {
	v, err := m.load(ctx, spec, config)
	if err != nil {
		return err
	}
	s.v = v
	sp := &Service{name: s.sp.name, seed: s.seed}
	if pool := m.pool(s.sp.name); pool != nil {
		trial := m.config(sp, v, 0)
		trial.Log = slog.New(slog.DiscardHandler) // its failures are no live policy's
		if err := v.policy.Smoke(ctx, trial, pool); err != nil {
			return err
		}
	}
	return m.prepareNext(ctx, s)
}

// prepareNext starts a version for every worker.
func (m *Manager) prepareNext(ctx context.Context, s *swap) error {
	sp := &Service{name: s.sp.name, seed: s.seed}
	for w, sched := range s.sp.all() {
		n, err := sched.Prepare(ctx, s.v.policy, m.config(sp, s.v, w))
		if err != nil {
			return err
		}
		s.next = append(s.next, n)
	}
	return nil
}

func (m *Manager) prepareShadow(ctx context.Context, s *swap, spec string) (err error) {
	s.setShadow = true
	s.shadows = make([]*host.Scheduler, len(s.sp.all()))
	if spec == "" {
		return nil
	}
	if s.shadow, err = m.loadShadow(ctx, spec); err != nil {
		return fmt.Errorf("shadow: %w", err)
	}
	list, err := m.schedulersFor(ctx, s.sp, s.shadow)
	if err != nil {
		return fmt.Errorf("shadow: %w", err)
	}
	s.shadows = list
	return nil
}

// pool returns the current pool of a service, nil if there is none.
func (m *Manager) pool(service string) *core.Pool {
	snap := m.cfg.Store.Snapshot()
	if svc := snap.Services.Named(service); svc != nil {
		return snap.Pools.Of(svc.ID)
	}
	return nil
}

// Commit makes the change: new services can be scheduled, and the others'
// workers switch to their new versions.
func (c *Change) Commit() error {
	defer c.unlock()
	m := c.m
	m.mu.Lock()
	for _, sp := range c.added {
		m.services[sp.name] = sp
	}
	m.mu.Unlock()
	var errs []error
	for _, s := range c.swaps {
		if s.v != nil {
			before := s.sp.previous
			s.sp.seed = s.seed
			m.install(s)
			m.drop(before)
		}
		if s.setShadow {
			errs = append(errs, m.installShadow(s))
		}
	}
	if c.runtime != nil {
		m.spent = append(m.spent, c.runtime)
		m.forgetPrevious()
	}
	m.Wake()
	return errors.Join(errs...)
}

// forgetPrevious gives up what a rollback would bring back: it has other
// limits.
func (m *Manager) forgetPrevious() {
	for _, name := range m.names() {
		sp := m.get(name)
		sp.mu.Lock()
		before := sp.previous
		sp.previous = nil
		sp.mu.Unlock()
		m.drop(before)
	}
}

// Discard gives the change up.
func (c *Change) Discard() {
	defer c.unlock()
	for _, sp := range c.added {
		if err := c.m.end(sp); err != nil {
			c.m.cfg.Log.Warn("policy not freed", "service", sp.name, "err", err)
		}
	}
	for _, s := range c.swaps {
		c.m.discard(s)
	}
	if c.runtime != nil {
		c.m.spent = append(c.m.spent, c.m.runtime)
		c.m.runtime, c.m.limits = c.runtime, c.limits
		c.m.loaded = map[[32]byte]*module{}
	}
}

func (m *Manager) discard(s *swap) {
	for _, n := range s.next {
		n.Discard()
	}
	for _, sh := range s.shadows {
		if sh != nil {
			_ = sh.Close()
		}
	}
	m.drop(s.v)
	m.drop(s.shadow)
}
