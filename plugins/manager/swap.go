package manager

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// Swap makes spec, a bundled name or an absolute path, the policy of a service.
// The new one is compiled, tried on the live pool, and takes over worker by
// worker; the old one stays at hand for Rollback. On an error the old one stays.
func (m *Manager) Swap(ctx context.Context, service, spec string) error {
	sp, err := m.find(service)
	if err != nil {
		return err
	}
	if strings.ContainsRune(spec, '/') && !filepath.IsAbs(spec) {
		return fmt.Errorf("policy file %q: name it by its absolute path", spec)
	}
	if err := m.warm(ctx, spec); err != nil {
		return fmt.Errorf("service %q keeps %q: %w", service, sp.version().spec, err)
	}
	m.changing.Lock()
	defer m.changing.Unlock()
	s := &swap{sp: sp, seed: sp.seed}
	if err := m.prepareSwap(ctx, s, spec, sp.current.config); err != nil {
		m.discard(s)
		return fmt.Errorf("service %q keeps %q: %w", service, sp.current.spec, err)
	}
	before := sp.previous
	m.install(s)
	m.drop(before)
	m.Wake()
	return nil
}

// Rollback makes the policy before the last swap the service's again.
func (m *Manager) Rollback(ctx context.Context, service string) error {
	sp, err := m.find(service)
	if err != nil {
		return err
	}
	m.changing.Lock()
	defer m.changing.Unlock()
	if sp.previous == nil {
		return fmt.Errorf("service %q: nothing to roll back to: its policy has not been swapped", service)
	}
	s := &swap{sp: sp, seed: sp.seed, v: sp.previous}
	if err := m.prepareNext(ctx, s); err != nil {
		for _, n := range s.next {
			n.Discard()
		}
		return fmt.Errorf("service %q keeps %q: %w", service, sp.current.spec, err)
	}
	m.install(s)
	m.Wake()
	return nil
}

// install switches a service's workers to a version and keeps the one before.
func (m *Manager) install(s *swap) {
	sp := s.sp
	start := time.Now()
	stall := time.Duration(0) // for which packets waited, the longest of the workers'
	for w, sched := range sp.all() {
		took := time.Duration(0)
		err := m.inWorker(w, func() {
			begin := time.Now()
			sched.Switch(s.next[w])
			sched.Rest()
			took = time.Since(begin)
		})
		if err != nil {
			// It will still happen, for the worker has been told.
			m.cfg.Log.Warn("policy switch is late", "service", sp.name, "worker", w, "err", err)
			continue
		}
		stall = max(stall, took)
	}
	sp.mu.Lock()
	was := sp.current
	s.v.since = time.Now()
	sp.current, sp.previous = s.v, was
	sp.mu.Unlock()
	m.cfg.Log.Info("policy swapped", "service", sp.name, "from", was.spec, "to", s.v.spec, "took", time.Since(start), "stall", stall)
}

// Shadow makes spec the shadow of a service's policy, "" for none.
func (m *Manager) Shadow(ctx context.Context, service, spec string) error {
	sp, err := m.find(service)
	if err != nil {
		return err
	}
	if err := m.warm(ctx, spec); err != nil {
		return fmt.Errorf("service %q: shadow: %w", service, err)
	}
	m.changing.Lock()
	defer m.changing.Unlock()
	s := &swap{sp: sp, seed: sp.seed}
	if err := m.prepareShadow(ctx, s, spec); err != nil {
		m.discard(s)
		return fmt.Errorf("service %q: %w", service, err)
	}
	return m.installShadow(s)
}

func (m *Manager) installShadow(s *swap) error {
	var errs []error
	for w, sched := range s.sp.all() {
		errs = append(errs, m.inWorker(w, func() {
			if before := sched.SetShadow(s.shadows[w]); before != nil {
				go before.Close()
			}
		}))
	}
	s.sp.mu.Lock()
	before := s.sp.shadow
	s.sp.shadow = s.shadow
	s.sp.mu.Unlock()
	m.drop(before)
	return errors.Join(errs...)
}
