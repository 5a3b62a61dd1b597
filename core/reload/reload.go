// Package reload changes the configuration of a balancer that runs. What a
// service's removal leaves is ended here as well, when its flows are over.
//
//	r := &reload.Reloader{Load: load, Store: store, …}
//	rows, err := r.Reload(ctx, false)
package reload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/metrics"
	"github.com/caplance/caplance/core/reconcile"
	"github.com/caplance/caplance/core/registry"
	"github.com/caplance/caplance/core/ruleset"
	"github.com/caplance/caplance/core/sources"
	"github.com/caplance/caplance/core/state"
	"github.com/caplance/caplance/core/workers"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/manager"
)

// LogSettings changes the log while it is written (config.LogSink).
type LogSettings interface{ Apply(config.Log) error }

// Reloader is what a reload needs. All is set before the first one.
type Reloader struct {
	Load     func() (*config.Server, error) // reads the configuration again
	Server   *atomic.Pointer[config.Server] // the one that holds
	Store    *state.Store
	Policies *manager.Manager
	Registry *registry.Registry
	Settings func(*config.Server) registry.Settings
	Static   func(*state.Draft, *config.Server) // sources.SetStatic
	Metrics  *metrics.Server
	Workers  *workers.Set
	Loop     *reconcile.Loop[core.Snapshot]
	Sink     LogSettings // nil: the log stays as it is
	FlowsOf  func(core.ServiceID) int64
	Log      *slog.Logger

	reloading sync.Mutex
	left      map[core.ServiceID]*leaving // of EndLeaving
}

// A reload is checked and prepared as a whole before anything changes: the file
// is valid, what cannot change live has not changed, the policies compile and
// take the pools that there are, new ports are bound. Then the sources write
// what it says, and the reconcile loop does the rest.

// Reload reads the file again and makes it hold. It returns what changes; with
// dryRun that is all. A refused file changes nothing.
func (r *Reloader) Reload(ctx context.Context, dryRun bool) (rows []api.ChangeRow, err error) {
	r.reloading.Lock()
	defer r.reloading.Unlock()
	was := r.Server.Load()
	next, err := r.Load()
	if err != nil {
		return nil, err
	}
	changes := config.Diff(r.running(was), next)
	rows = []api.ChangeRow{}
	for _, c := range changes {
		rows = append(rows, api.ChangeRow{Key: c.Key, From: c.From, To: c.To, Note: c.Why})
	}
	if err := allowed(changes); err != nil {
		return rows, err
	}
	change, err := r.Policies.Prepare(ctx, next.Services, Limits(next.Policy))
	if err != nil {
		return rows, err
	}
	err = errors.Join(r.fits(next), next.Replaces(was))
	if err != nil || dryRun {
		change.Discard()
		return rows, errors.Join(err, canListen(was, next))
	}
	if err := r.listenAnew(ctx, was, next); err != nil {
		change.Discard()
		return rows, err
	}
	return rows, r.commit(ctx, next, change.Commit)
}

// running returns the configuration with the policies that hold: orders may have
// swapped them, and the file's come back.
func (r *Reloader) running(cfg *config.Server) *config.Server {
	out := *cfg
	out.Services = slices.Clone(cfg.Services)
	for i, svc := range out.Services {
		now := *svc
		if policy, shadow, ok := r.Policies.Specs(svc.Name); ok {
			now.Policy, now.Shadow = policy, shadow
		}
		out.Services[i] = &now
	}
	return &out
}

// canListen tries the ports that change.
func canListen(was, next *config.Server) error {
	return errors.Join(canBind("registry.listen", was.Registry.Listen.String(), next.Registry.Listen.String()), canBind("metrics", was.Metrics, next.Metrics))
}

// canBind tries an address. Where this process may have its port itself, it tries
// whether the machine has the address at all.
func canBind(key, was, next string) error {
	_, wasPort, _ := net.SplitHostPort(was)
	host, port, _ := net.SplitHostPort(next)
	if next == "" || next == was {
		return nil
	}
	if port == wasPort {
		next = net.JoinHostPort(host, "0")
	}
	l, err := net.Listen("tcp", next)
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		return fmt.Errorf("%s: %w (ip address lists what this machine has)", key, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w (what else listens there? ss -ltnp)", key, err)
	}
	return l.Close()
}

// allowed refuses what only a restart changes.
func allowed(changes []config.Change) error {
	var errs []error
	for _, c := range changes {
		if !c.Live {
			errs = append(errs, fmt.Errorf("%s cannot change while the balancer runs: %s", c.Key, c.Why))
		}
	}
	return errors.Join(errs...)
}

// Queues returns how many queues the configuration asks for: by default one per CPU.
func Queues(cfg *config.Server) int {
	if cfg.Datapath.Queues == 0 {
		return runtime.NumCPU()
	}
	return cfg.Datapath.Queues
}

// fits checks the configuration against the machine. VIPs that the balancer put
// there itself are no addresses of the machine.
func (r *Reloader) fits(next *config.Server) error {
	m, err := config.ThisMachine()
	if err != nil {
		return err
	}
	for _, v := range r.Store.Snapshot().VIPs.List {
		m.Left = append(m.Left, v.Addr)
	}
	warnings, err := next.CheckMachine(m)
	for _, w := range warnings {
		r.Log.Warn("configuration", "warning", w)
	}
	for _, w := range next.Expiring() {
		r.Log.Warn(w)
	}
	return err
}

// listenAnew takes the addresses that have changed, all or none.
func (r *Reloader) listenAnew(ctx context.Context, was, next *config.Server) error {
	if err := canListen(was, next); err != nil {
		return err
	}
	if err := r.Metrics.Listen(ctx, MetricsOf(next)); err != nil {
		return err
	}
	if err := r.Registry.Move(ctx, next.Registry.Listen); err != nil {
		return errors.Join(err, r.Metrics.Listen(ctx, MetricsOf(was)))
	}
	return nil
}

// MetricsOf returns where the configuration has Prometheus ask.
func MetricsOf(cfg *config.Server) metrics.Settings {
	return metrics.Settings{Addr: cfg.Metrics, Connections: cfg.MetricsConnections, Pprof: cfg.MetricsPprof}
}

// commit makes a configuration hold that has been found good. New services can
// be scheduled before packets for them come.
func (r *Reloader) commit(ctx context.Context, next *config.Server, policies func() error) error {
	errs := []error{policies()}
	if r.Sink != nil {
		errs = append(errs, r.Sink.Apply(next.Log))
	}
	r.Server.Store(next)
	settings := *next.Settings(Queues(next))
	if err := r.resizeQueues(ctx, &settings); err != nil {
		errs = append(errs, err)
		settings.Queues, settings.FirstQueue = r.Store.Snapshot().Settings.Queues, r.Store.Snapshot().Settings.FirstQueue
	}
	revision, err := r.Store.Update(sources.Config, func(dr *state.Draft) error {
		dr.SetSettings(settings)
		dr.SetLinks(next.Datapath.Links)
		r.Static(dr, next)
		return dr.SetServices(next.Services)
	})
	errs = append(errs, err)
	r.Registry.Update(r.Settings(next))
	errs = append(errs, r.Workers.SetSettings(ctx, r.Store.Snapshot().Settings))
	waiting, cancel := context.WithTimeout(ctx, workers.OrderTimeout)
	defer cancel()
	if err := r.Loop.Wait(waiting, revision); err != nil {
		errs = append(errs, fmt.Errorf("reload: the machine does not follow yet, see caplancectl status: %w", err))
	}
	r.forgetPolicies(waiting)
	return errors.Join(errs...)
}

// resizeQueues opens the queues that the settings want, before the rules lead
// there.
func (r *Reloader) resizeQueues(ctx context.Context, s *core.Settings) error {
	snapshot := *r.Store.Snapshot()
	snapshot.Settings = s
	return r.Workers.Resize(ctx, s, ruleset.CaptureOf(&snapshot))
}

// Limits returns what policies may use.
func Limits(p config.Policy) host.Limits {
	return host.Limits{
		ModuleBytes: p.MaxModuleBytes, MemoryPages: uint32(p.MaxMemoryPages), Depth: int64(p.MaxDepth), LogBytes: p.LogBytes,
		PickFuel: p.PickFuel, CallFuel: p.CallFuel, StartFuel: p.StartFuel,
	}
}
