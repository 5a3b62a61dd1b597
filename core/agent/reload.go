package agent

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/notify"
	"github.com/caplance/caplance/core/protocol"
)

// LogSettings changes the process's log while it runs: level, format and file.
// Apply changes all of it or, with an error, nothing.
type LogSettings interface {
	Apply(config.Log) error
}

// ControlLog lets Reload change the log. Call it before Reload; without it, another
// [log] is refused.
func (a *Agent) ControlLog(l LogSettings) { a.logs = l }

// reload is a configuration on its way to the goroutine of reconnect.
type reload struct {
	cfg  Config
	done chan error // buffered
}

// Reload makes another configuration hold without ending the session: what the
// agent chose about its backend, the timeouts, the check, how it stops,
// and the log. It returns once the balancer has confirmed it. When a key differs
// that cannot change, or the balancer refuses, nothing has changed. When the
// VIPs are such that the machine must not have them, the agent starts over with the
// new configuration.
// It may be called at any time, by any goroutine.
func (a *Agent) Reload(cfg Config) (err error) {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	for _, text := range auth.Expiring(cfg.Own, time.Now()) {
		a.log.Warn(text)
	}
	return a.adopt(cfg)
}

// change makes the configuration hold with a change.
func (a *Agent) change(f func(*Config)) error {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	cfg := *a.config()
	f(&cfg)
	return a.adopt(cfg)
}

// adopt carries Reload out. The lock is held.
func (a *Agent) adopt(cfg Config) (err error) {
	if a.isReady() {
		a.notify(notify.Reloading)
		defer a.notify(notify.Ready)
	}
	old := a.config()
	if keys := old.fixed(&cfg, a.logs != nil); len(keys) > 0 {
		return fmt.Errorf("agent: %s cannot change while the agent runs; nothing was reloaded (restart it: sudo systemctl restart caplance-agent)",
			strings.Join(keys, ", "))
	}
	if err := auth.Replaces(old.Own, cfg.Own, time.Now()); err != nil {
		return cfg.doc.Errorf("cert_file", "%w; nothing was reloaded", err)
	}
	if cfg.Log != old.Log {
		if err := a.logs.Apply(cfg.Log); err != nil {
			return fmt.Errorf("agent: log: %w", err)
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, a.logs.Apply(old.Log))
			}
		}()
	}
	if err := a.pass(reload{cfg, make(chan error, 1)}); err != nil {
		return fmt.Errorf("agent: reload: %w", err)
	}
	return nil
}

// pass hands a reload to the goroutine of reconnect, which may be connecting,
// and waits for its end.
func (a *Agent) pass(r reload) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), 2*a.config().WriteTimeout,
		errors.New("agent is still starting or connecting (try again)"))
	defer cancel()
	select {
	case a.reloads <- r:
	case <-a.stopped:
		return errors.New("agent has stopped")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-r.done:
		return err
	case <-a.stopped:
		return errors.New("agent has stopped")
	}
}

// fixed returns the keys of next that differ and cannot change in a process.
func (c *Config) fixed(next *Config, logs bool) (keys []string) {
	for _, k := range []struct {
		name string
		same bool
	}{
		{"name", c.Name == next.Name},
		{"server", c.Server == next.Server},
		{"data_ip", c.DataIP == next.DataIP},
		{"tunnel_port", c.Port == next.Port},
		{"type", c.Type == next.Type},
		{"control", c.Control == next.Control},
		{"control_group", c.ControlGroup == next.ControlGroup},
		{"control_read_group", c.ControlReadGroup == next.ControlReadGroup},
		{"control_clients", c.ControlClients == next.ControlClients},
		{"state_dir", c.StateDir == next.StateDir},
		{"sandbox", reflect.DeepEqual(c.Sandbox, next.Sandbox)},
		{"log", c.Log == next.Log || logs},
	} {
		if !k.same {
			keys = append(keys, k.name)
		}
	}
	return keys
}

// sameChoices reports whether REGISTER would be the same line.
func (c *Config) sameChoices(next *Config) bool {
	return slices.Equal(c.Services, next.Services) && c.Weight == next.Weight && c.MaxFlows == next.MaxFlows &&
		c.Priority == next.Priority && c.Zone == next.Zone && c.Label == next.Label && c.Mode == next.Mode
}

// reload carries a Reload out in a session. A session that is not registered starts over;
// so does one whose balancer takes no updates, which keeps the flows.
func (s *session) reload(r reload) error {
	same := s.a.config().sameChoices(&r.cfg)
	switch {
	case s.stopping:
		r.done <- errors.New("agent is stopping")
		return nil
	case s.registered && same:
		return s.adopt(r)
	case s.registered && s.updates:
		return s.update(r)
	}
	s.a.apply(&r.cfg)
	r.done <- nil
	return errReregister
}

// update asks the balancer, which may refuse.
func (s *session) update(r reload) error {
	return s.send(s.choices(&r.cfg), protocol.Registered, func(reply protocol.Reply, err error) error {
		switch {
		case reply.Verb == protocol.Invalid:
			r.done <- err
			return nil
		case err != nil: // the next session registers with it
			s.a.apply(&r.cfg)
			r.done <- nil
			return err
		}
		if s.offer, err = (offer{}).with(reply.Options); err != nil {
			r.done <- err
			return err
		}
		return s.adopt(r)
	})
}

// adopt makes a configuration hold in a registered session.
func (s *session) adopt(r reload) error {
	s.a.apply(&r.cfg)
	s.pace()
	err := s.setUp()
	r.done <- err
	return err
}
