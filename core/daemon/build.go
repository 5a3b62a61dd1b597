package daemon

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/announce"
	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/counters"
	"github.com/caplance/caplance/core/datapath"
	"github.com/caplance/caplance/core/hostnet"
	"github.com/caplance/caplance/core/liveness"
	"github.com/caplance/caplance/core/metrics"
	"github.com/caplance/caplance/core/netmon"
	"github.com/caplance/caplance/core/offload"
	"github.com/caplance/caplance/core/protocol"
	"github.com/caplance/caplance/core/reconcile"
	"github.com/caplance/caplance/core/registry"
	"github.com/caplance/caplance/core/reload"
	"github.com/caplance/caplance/core/ruleset"
	"github.com/caplance/caplance/core/sources"
	"github.com/caplance/caplance/core/state"
	"github.com/caplance/caplance/core/status"
	"github.com/caplance/caplance/core/succession"
	"github.com/caplance/caplance/core/undo"
	"github.com/caplance/caplance/core/workers"
	"github.com/caplance/caplance/plugins/manager"
)

func journalPath(cfg *config.Server) string  { return filepath.Join(cfg.StateDir, "server.journal") }
func compiledPath(cfg *config.Server) string { return filepath.Join(cfg.StateDir, "compiled") }

// build makes all parts and binds what they listen on; it changes nothing on the
// machine. What it opens is added to opened.
func (d *Daemon) build(ctx context.Context, opened *undo.Stack) (err error) {
	cfg := d.cfg.Load()
	if d.lock, err = hostnet.TakeLock(hostnet.Server, cfg.StateDir); err != nil {
		return err
	}
	opened.Add(d.lock.Close)
	if d.net, err = netmon.Open(d.log); err != nil {
		return err
	}
	opened.Add(func() error { d.net.Close(); return nil })
	queues := reload.Queues(cfg)
	d.counters = counters.New(queues)
	d.store = state.New(d.log, sources.Config, sources.Network, succession.Source)
	d.policies, err = manager.New(ctx, manager.Config{
		Store: d.store, Workers: queues, Limits: reload.Limits(cfg.Policy), Log: d.log, Compiler: d.Compiler, CompiledDir: compiledPath(cfg),
	})
	if err != nil {
		return err
	}
	opened.Add(d.policies.Close)
	policies, err := d.policies.Prepare(ctx, cfg.Services, reload.Limits(cfg.Policy))
	if err != nil {
		return err
	}
	if d.journal, err = hostnet.Adopt(journalPath(cfg)); err != nil {
		policies.Discard()
		return err
	}
	d.store.Ours = d.journal.Ours
	d.assemble(cfg)
	if err := errors.Join(d.openAdmin(cfg), d.bind(ctx, cfg, opened)); err != nil {
		policies.Discard()
		return errors.Join(err, d.abandon())
	}
	if err := errors.Join(d.findPredecessor(cfg), policies.Commit()); err != nil {
		return errors.Join(err, d.abandon())
	}
	if err := d.speak(cfg, queues); err != nil {
		return errors.Join(err, d.abandon())
	}
	d.reloader.Workers = d.workers
	opened.Add(d.workers.Close)
	return nil
}

// assemble makes the parts that open nothing. The loop adds in the order of its
// targets: what a successor needs is saved before flows go into the kernel,
// packets are captured before the VIPs are there, and these are announced last.
func (d *Daemon) assemble(cfg *config.Server) {
	d.capture, d.l2 = ruleset.NewCapture(), announce.New(announce.Config{Log: d.log})
	d.fast = offload.New(offload.Config{StateDir: cfg.StateDir, Snapshot: d.store.Snapshot, Counters: d.counters, Log: d.log})
	d.fast.Liveness = liveness.New(liveness.Config{
		Snapshot: d.store.Snapshot, Fast: d.fast,
		Ask:   func(backend string, about []protocol.Report) bool { return d.registry.Ask(backend, about) },
		Count: func(backend string) bool { return d.registry.AskCount(backend) },
		Tell:  func(words []datapath.Word) { d.workers.Tell(words) },
	})
	d.saved = succession.New(succession.Config{Store: d.store, File: state.OpenFile(cfg.StateDir), Fast: d.fast, Log: d.log})
	d.addrs = hostnet.NewTarget(d.journal)
	d.loop = reconcile.New(reconcile.Config[core.Snapshot]{
		Targets: []reconcile.Target[core.Snapshot]{
			d.saved,
			reconcile.View(d.capture, ruleset.CaptureOf),
			reconcile.View(d.addrs, hostnet.VIPsOf),
			d.fast,
			reconcile.View(d.l2, announce.VIPsOf),
		},
		Revision: func(s *core.Snapshot) uint64 { return s.Revision },
		Complete: func(s *core.Snapshot) bool { return s.Complete },
		OnEvent:  d.event, Log: d.log,
	})
	d.sources = &sources.Sources{Server: d.cfg.Load, Store: d.store, Net: d.net, Moved: func() { d.loop.Kick(d.addrs.String()) }, Log: d.log}
	d.model = &status.Model{
		Store: d.store, Counters: d.counters, Manager: d.policies, Fast: d.fast,
		Workers: func() []*status.Worker { return d.workers.All() }, Counted: d.addCounters,
		Targets: d.loop.Status, Passed: d.loop.Passed, Wait: d.loop.Wait, Unsaved: d.saved.Warning, Orders: func() []api.AdminRow { return d.admin.Rows() }, Doubts: d.doubts, Terms: d.terms, Peers: d.sessions, Log: d.events,
		Method: func() string { return string(d.capture.Method()) }, Capture: d.capture.Counted, Started: time.Now(),
	}
}

// bind takes the ports and sockets on which others come in.
func (d *Daemon) bind(ctx context.Context, cfg *config.Server, opened *undo.Stack) error {
	d.registry = registry.New(registry.Config{
		Addr: cfg.Registry.Listen, Settings: d.sources.RegistrySettings(cfg), Offer: d.sources.Offer, Apply: d.apply,
		Refused: d.sources.Refused, Admin: d.admin.Told, Joinable: d.desk.Joinable, Join: d.desk.Join,
		Active: func(b core.Backend) int { return d.model.Active(&b) }, CountedAt: d.fast.CountedAt, Wait: d.loop.Wait, Sanity: d.probe, Connections: d.fast.Liveness, Live: d.fast.Liveness.Live, Log: d.log,
	})
	d.sources.Registry = d.registry
	d.metrics = metrics.New(d.model)
	d.reloader = &reload.Reloader{
		Load: d.load, Server: &d.cfg, Store: d.store, Policies: d.policies, Registry: d.registry, Settings: d.sources.RegistrySettings, Static: d.sources.SetStatic,
		Metrics: d.metrics, Loop: d.loop, Sink: d.sink, FlowsOf: d.model.OfService, Log: d.log,
	}
	if err := d.registry.Listen(ctx); err != nil {
		return err
	}
	opened.Add(d.registry.Close)
	if err := d.openControl(cfg); err != nil {
		return err
	}
	opened.Add(d.control.Close)
	opened.Add(d.metrics.Close)
	return d.metrics.Listen(ctx, reload.MetricsOf(cfg))
}

// findPredecessor finds what a predecessor left on the machine.
func (d *Daemon) findPredecessor(cfg *config.Server) error {
	if err := d.fast.Open(cfg.Settings(1)); err != nil {
		return err
	}
	found, err := d.saved.Restore(cfg.Settings(1), cfg.LongestTimeout())
	d.predecessor = found || d.journal.Adopted() > 0
	return err
}

// speak writes what the configuration says and what the network is, and tries
// whether the kernel has what that takes.
func (d *Daemon) speak(cfg *config.Server, queues int) error {
	_, err := d.store.Update(sources.Config, func(dr *state.Draft) error {
		dr.SetSettings(*cfg.Settings(queues))
		dr.SetLinks(cfg.Datapath.Links)
		dr.SetNetwork(d.net.Network(), nil)
		d.sources.SetStatic(dr, cfg)
		dr.Done(sources.Config)
		dr.Done(sources.Network)
		return dr.SetServices(cfg.Services)
	})
	if err != nil {
		return err
	}
	d.store.DropUnknown()
	if err := d.fast.Try(d.store.Snapshot()); err != nil {
		return err
	}
	d.workers, err = workers.Open(workers.Config{
		Snapshot: d.store.Snapshot, Counters: d.counters, Scheduler: d.scheduler, Grow: d.policies.Grow, Kernel: d.fast.Kernel, Truth: d.fast.Liveness,
	}, ruleset.CaptureOf(d.store.Snapshot()))
	return err
}

// abandon ends a start that failed before the machine was changed.
func (d *Daemon) abandon() error {
	if d.predecessor || d.journal.Adopted() > 0 {
		return errors.Join(d.fast.Abandon(), d.journal.Leave())
	}
	return errors.Join(d.fast.Abandon(), d.journal.Close())
}
