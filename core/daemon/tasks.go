package daemon

import (
	"context"
	"errors"
	"time"

	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/notify"
	"github.com/caplance/caplance/core/ruleset"
	"github.com/caplance/caplance/core/task"
)

// first returns the tasks that make the machine as the state says.
func (d *Daemon) first() []task.Task {
	return []task.Task{
		task.New("loop", d.loop.Run),
		task.New("network monitor", d.net.Run),
		task.New("network", d.sources.FollowNetwork),
		task.New("announcements", d.l2.Run),
		d.policies,
		task.New("ruleset watch", func(ctx context.Context) error {
			return ruleset.Watch(ctx, func() { d.loop.Kick(d.capture.String()) })
		}),
		task.Every("heartbeat", fastpath.HeartbeatTimeout/4, d.fast.Heartbeat),
		task.Every("fast path watch", 500*time.Millisecond, func(context.Context) error { d.loop.Kick(d.fast.String()); return nil }),
	}
}

// second returns those that let others in, once it is so.
func (d *Daemon) second() []task.Task {
	return append(d.sources.Tasks(),
		d.registry,
		task.New("control", d.control.Run),
		task.New("watchdog", notify.Watchdog(d.workers.Alive)),
		task.New("metrics", d.metrics.Run),
		task.New("predecessor", func(ctx context.Context) error { return d.saved.Await(ctx, d.cfg.Load().Registry.Rejoin) }),
		task.New("garbage collection", d.fast.Collect),
		task.New("liveness", d.fast.Liveness.Run),
		task.Every("operator's orders", 200*time.Millisecond, d.admin.Sweep),
		task.Every("leaving services", 500*time.Millisecond, d.reloader.EndLeaving),
		task.New("saved state file", d.saved.Run),
		task.Every("surplus queues", 5*time.Second, d.workers.Retire),
		task.Every("certificates", time.Hour, d.reminder()),
	)
}

// runTasks runs everything until ctx ends or a task fails. started reports
// whether the machine was once as the state says.
func (d *Daemon) runTasks(ctx context.Context) (started bool, err error) {
	failed, stopLoops := d.workers.Run(ctx)
	d.fast.Serve(d.workers)
	d.policies.Start(d.workers.Do)
	d.store.Notify(d.loop.Set)
	g, ctx := task.NewGroup(ctx)
	g.Start(d.first()...)
	g.Go(func() error {
		select {
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
	})
	g.Go(func() error {
		err := d.loop.Settle(ctx, d.store.Snapshot().Revision, startTimeout)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		started = true
		g.Start(d.second()...)
		return d.becomeReady(ctx)
	})
	err = g.Wait()
	d.log.Info("stopping")
	d.releaseOrTakeBack(err, started)
	return started, errors.Join(err, stopLoops(), notify.Stopping())
}

// releaseOrTakeBack takes the way to the workers away before they stop, so that
// nothing waits in a queue that nobody reads.
func (d *Daemon) releaseOrTakeBack(err error, started bool) {
	if err != nil && (started || d.predecessor) || d.released.Load() {
		return
	}
	if err := errors.Join(d.fast.Close(), d.capture.Remove()); err != nil {
		d.log.Warn("machine not cleaned", "err", err)
	}
}

// startTimeout is how long a target may fail before the start does.
const startTimeout = 3 * time.Second

// becomeReady tells the operator and the service manager that packets flow.
func (d *Daemon) becomeReady(ctx context.Context) error {
	for _, r := range []<-chan struct{}{d.registry.Ready(), d.control.Ready()} {
		select {
		case <-r:
		case <-ctx.Done():
			return nil
		}
	}
	cfg := d.cfg.Load()
	d.giveUp(cfg)
	kind, reason := d.fast.Datapath()
	d.log.Info("balancing", "services", len(cfg.Services), "queues", d.store.Snapshot().Settings.Queues, "capture", d.capture.Method(),
		"datapath", kind, "reason", reason, "registry", d.registry.Addr(), "control", cfg.Control)
	for _, w := range d.model.Warnings() {
		d.log.Warn(w)
	}
	close(d.ready)
	return notify.Ready()
}
