// Package daemon is the composition root of the balancer: it builds the parts,
// runs them as tasks, and takes everything back in the end. It has three
// phases. Build reads, checks and binds; nothing that others could notice has
// changed when it fails. Then the reconcile loop makes the machine as the
// desired state says. Only a requested stop takes that away again: an error at
// run time, and a failing start in the place of a predecessor, leave what works
// at work.
//
//	err := daemon.New(load, cfg, log, sink).Run(ctx) // until ctx ends
package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync/atomic"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/admin"
	"github.com/caplance/caplance/core/announce"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/control"
	"github.com/caplance/caplance/core/counters"
	"github.com/caplance/caplance/core/enrol"
	"github.com/caplance/caplance/core/events"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/hostnet"
	"github.com/caplance/caplance/core/metrics"
	"github.com/caplance/caplance/core/netmon"
	"github.com/caplance/caplance/core/offload"
	"github.com/caplance/caplance/core/privilege"
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

// Daemon is one balancer. Make it with New and run it once.
type Daemon struct {
	// Compiler is how to start host.RunCompiler, which compiles policies out of
	// files in a process of its own; nil: this process does. Set it before Run.
	Compiler []string

	// GiveUp gives up privileges once the balancer has started, as privilege.GiveUp
	// does; nil: it keeps them. Set it before Run.
	GiveUp func(*slog.Logger, privilege.Plan)

	load func() (*config.Server, error) // reads the configuration again
	cfg  atomic.Pointer[config.Server]  // that holds
	log  *slog.Logger
	sink reload.LogSettings // nil: the log stays as it is

	lock     *hostnet.Lock
	net      *netmon.Monitor
	counters *counters.Set
	store    *state.Store
	policies *manager.Manager
	journal  *hostnet.Journal
	workers  *workers.Set

	saved   *succession.State
	capture *ruleset.CaptureTarget
	addrs   *hostnet.Target
	fast    *offload.FastPath
	l2      *announce.L2
	loop    *reconcile.Loop[core.Snapshot]
	admin   *admin.Keeper
	desk    *enrol.Desk
	events  *events.Ring

	sources  *sources.Sources
	model    *status.Model
	reloader *reload.Reloader
	registry *registry.Registry
	control  *control.Server
	metrics  *metrics.Server

	ready       chan struct{}
	stop        context.CancelFunc
	predecessor bool        // its rules, VIPs or flows were found
	released    atomic.Bool // what is in the kernel stays, for a successor
}

// New prepares a balancer; nothing happens before Run. load reads the
// configuration again for a reload. sink may be nil.
func New(load func() (*config.Server, error), cfg *config.Server, log *slog.Logger, sink reload.LogSettings) *Daemon {
	d := &Daemon{load: load, events: events.New(keptEvents), sink: sink, ready: make(chan struct{})}
	d.log = slog.New(d.events.Tee(log.Handler()))
	d.cfg.Store(cfg)
	return d
}

// Ready returns a channel that is closed when packets are being forwarded.
func (d *Daemon) Ready() <-chan struct{} { return d.ready }

// Run balances until ctx ends, which is no error, or a part fails.
func (d *Daemon) Run(ctx context.Context) (err error) {
	ctx, d.stop = context.WithCancel(ctx)
	defer d.stop()
	var opened undo.Stack
	defer func() { err = errors.Join(err, opened.Undo()) }()
	if err := d.build(ctx, &opened); err != nil {
		return err
	}
	started, err := d.runTasks(ctx)
	return errors.Join(err, d.leaveMachine(err == nil || !started && !d.predecessor))
}

// leaveMachine takes everything off the machine, or leaves it at work.
func (d *Daemon) leaveMachine(takeBack bool) error {
	if takeBack && !d.released.Load() {
		return errors.Join(d.fast.Close(), d.capture.Remove(), d.journal.Close(), fastpath.Unload(d.cfg.Load().StateDir))
	}
	return errors.Join(d.fast.Release(), d.capture.Release(), d.journal.Leave(), d.saved.File.Sync())
}

// Unload takes back all that a killed balancer left on the machine: rules,
// addresses, and flows in the kernel, which end. It fails while a balancer runs
// in this network namespace or with this state directory.
func Unload(cfg *config.Server) error {
	lock, err := hostnet.TakeLock(hostnet.Server, cfg.StateDir)
	if err != nil {
		return err
	}
	j, err := hostnet.Adopt(journalPath(cfg))
	if err != nil {
		return errors.Join(err, lock.Close())
	}
	return errors.Join(fastpath.Unload(cfg.StateDir), ruleset.Remove(), j.Close(), os.RemoveAll(compiledPath(cfg)), state.OpenFile(cfg.StateDir).Remove(), admin.Remove(admin.File(cfg.StateDir)), lock.Close())
}

// event handles an event of the loop. A repair may have cost the neighbours' knowledge
// of the VIPs: they are announced again.
func (d *Daemon) event(ev reconcile.Event) {
	d.model.Repairs.Add(ev)
	if ev.Kind == reconcile.Drift && ev.Target == d.addrs.String() {
		d.l2.Again()
	}
}
