package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/plugins/host"
)

// handOver is how long a worker may take to come to a change between two
// batches.
const handOver = 5 * time.Second

// Swap makes spec, a bundled name or an absolute path, the policy of a
// service. The new one is compiled, tried on the live pool, and takes over
// worker by worker; the old one stays at hand for Rollback. On an error the old
// one stays.
func (s *Server) Swap(ctx context.Context, service, spec string) error {
	sp, err := s.policyOf(service)
	if err != nil {
		return err
	}
	if strings.ContainsRune(spec, '/') && !filepath.IsAbs(spec) {
		return fmt.Errorf("policy file %q: name it by its absolute path", spec)
	}
	s.policies.mu.Lock()
	defer s.policies.mu.Unlock()
	return s.swap(ctx, sp, spec, sp.current.config)
}

// Rollback makes the policy before the last swap the service's again.
func (s *Server) Rollback(ctx context.Context, service string) error {
	sp, err := s.policyOf(service)
	if err != nil {
		return err
	}
	s.policies.mu.Lock()
	defer s.policies.mu.Unlock()
	if sp.previous == nil {
		return fmt.Errorf("service %q: nothing to roll back to: its policy has not been swapped", service)
	}
	return s.install(ctx, sp, sp.previous)
}

func (s *Server) policyOf(service string) (*servicePolicy, error) {
	var names []string
	for _, sp := range s.policies.services {
		if sp.svc.Name == service {
			return sp, nil
		}
		names = append(names, sp.svc.Name)
	}
	return nil, fmt.Errorf("service %q is unknown (services: %s)", service, strings.Join(names, ", "))
}

// swap loads, tries and installs a policy.
func (s *Server) swap(ctx context.Context, sp *servicePolicy, spec string, config []byte) error {
	v, err := s.policies.load(ctx, spec, config)
	if err != nil {
		return fmt.Errorf("service %q keeps %q: %w", sp.svc.Name, sp.current.spec, err)
	}
	pool := s.pools.out.Of(sp.svc.Index)
	if err := v.policy.Smoke(ctx, s.policies.config(sp, v, 0), pool); err != nil {
		s.policies.drop(v)
		return fmt.Errorf("service %q keeps %q: %w", sp.svc.Name, sp.current.spec, err)
	}
	before := sp.previous
	if err := s.install(ctx, sp, v); err != nil {
		s.policies.drop(v)
		return err
	}
	s.policies.drop(before)
	return nil
}

// install switches a service's workers to a version and keeps the one before.
func (s *Server) install(ctx context.Context, sp *servicePolicy, v *version) error {
	next := make([]*host.Next, len(sp.schedulers))
	for w, sched := range sp.schedulers {
		n, err := sched.Prepare(ctx, v.policy, s.policies.config(sp, v, w))
		if err != nil {
			for _, n := range next[:w] {
				n.Discard()
			}
			return fmt.Errorf("service %q keeps %q: %w", sp.svc.Name, sp.current.spec, err)
		}
		next[w] = n
	}
	start := time.Now()
	stall := time.Duration(0) // for which packets waited, the longest of the workers'
	for w, sched := range sp.schedulers {
		took := time.Duration(0)
		err := s.inWorker(w, func() {
			begin := time.Now()
			sched.Switch(next[w])
			took = time.Since(begin)
		})
		if err != nil {
			// It will still happen, for the worker has been told.
			s.log.Warn("policy switch is late", "service", sp.svc.Name, "worker", w, "err", err)
			continue
		}
		stall = max(stall, took)
	}
	was := sp.current
	sp.mu.Lock()
	v.since = time.Now()
	sp.current, sp.previous = v, was
	sp.mu.Unlock()
	s.pools.tables(sp.svc.Index) // leaves or enters table mode
	s.log.Info("policy swapped", "service", sp.svc.Name, "from", was.spec, "to", v.spec, "took", time.Since(start), "stall", stall)
	return nil
}

// inWorker runs fn between two batches of a worker and waits for it.
func (s *Server) inWorker(w int, fn func()) error {
	done := make(chan struct{})
	deadline := time.After(handOver)
	for !s.workers[w].path.Do(func() { fn(); close(done) }) {
		select {
		case <-deadline:
			return errors.New("worker does not come to it")
		case <-time.After(time.Millisecond):
		}
	}
	select {
	case <-done:
		return nil
	case <-deadline:
		return errors.New("worker does not come to it")
	}
}

// Shadow makes spec the shadow of a service's policy, "" for none.
func (s *Server) Shadow(ctx context.Context, service, spec string) error {
	sp, err := s.policyOf(service)
	if err != nil {
		return err
	}
	s.policies.mu.Lock()
	defer s.policies.mu.Unlock()
	return s.setShadow(ctx, sp, spec)
}

func (s *Server) setShadow(ctx context.Context, sp *servicePolicy, spec string) error {
	var v *version
	shadows := make([]*host.Scheduler, len(sp.schedulers))
	if spec != "" {
		var err error
		if v, err = s.policies.loadShadow(ctx, spec); err != nil {
			return fmt.Errorf("service %q: shadow: %w", sp.svc.Name, err)
		}
		for w := range shadows {
			if shadows[w], err = v.policy.NewScheduler(ctx, s.policies.config(sp, v, w)); err != nil {
				s.policies.drop(v)
				return fmt.Errorf("service %q: shadow: %w", sp.svc.Name, err)
			}
		}
	}
	var errs []error
	for w, sched := range sp.schedulers {
		err := s.inWorker(w, func() {
			if before := sched.SetShadow(shadows[w]); before != nil {
				go before.Close()
			}
		})
		errs = append(errs, err)
	}
	before := sp.shadow
	sp.mu.Lock()
	sp.shadow = v
	sp.mu.Unlock()
	s.policies.drop(before)
	return errors.Join(errs...)
}

// Reload applies what changed in the policies of a configuration that was read
// anew, and says what else changed, which takes a restart.
func (s *Server) Reload(ctx context.Context, cfg *config.Server) error {
	select {
	case <-s.ready:
	default:
		return errors.New("reload: the balancer is still starting; try again")
	}
	s.policies.mu.Lock()
	defer s.policies.mu.Unlock()
	var errs []error
	for _, svc := range cfg.Services {
		sp, err := s.policyOf(svc.Name)
		if err != nil {
			errs = append(errs, fmt.Errorf("service %q is new: restart to add it", svc.Name))
			continue
		}
		if !sp.current.same(svc.Policy, svc.Config) {
			errs = append(errs, s.swap(ctx, sp, svc.Policy, svc.Config))
		}
		shadow := ""
		if sp.shadow != nil {
			shadow = sp.shadow.spec
		}
		if svc.Shadow != shadow || svc.Shadow != "" && !sp.shadow.same(svc.Shadow, nil) {
			errs = append(errs, s.setShadow(ctx, sp, svc.Shadow))
		}
		if svc.VIP != sp.svc.VIP || svc.Protocol() != sp.svc.Protocol() || svc.PortList() != sp.svc.PortList() || svc.Seed != sp.svc.Seed {
			errs = append(errs, fmt.Errorf("service %q: vip, protocol, ports and seed take a restart", svc.Name))
		}
	}
	return errors.Join(errs...)
}
