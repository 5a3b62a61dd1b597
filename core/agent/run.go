package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/control"
	"github.com/caplance/caplance/core/netmon"
	"github.com/caplance/caplance/core/notify"
	"github.com/caplance/caplance/core/reconcile"
)

// Run registers and serves until ctx ends, then leaves as the configuration
// says and undoes what it changed on the machine. An unreachable balancer is
// no error: the agent tries again.
func (a *Agent) Run(ctx context.Context) error {
	defer close(a.stopped)
	if err := a.run(ctx, a.openMachine); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	return nil
}

// run serves on any machine. What outlives ctx, for flows go on while the agent
// drains, runs until life ends.
func (a *Agent) run(ctx context.Context, open func() (*machine, error)) (err error) {
	release, err := a.lock(a.config().StateDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release.Close()) }()
	if err := a.loadAdmin(); err != nil {
		return err
	}
	if a.network, err = netmon.Open(a.log); err != nil {
		return err
	}
	defer a.network.Close()
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	a.leave, a.stops = end, ctx.Done()
	g, life := errgroup.WithContext(life)
	g.Go(func() error { return a.network.Run(life) })
	g.Go(func() error {
		defer end()
		return a.holdEach(ctx, life, open)
	})
	return g.Wait()
}

// holdEach serves one data IP after another.
func (a *Agent) holdEach(ctx, life context.Context, open func() (*machine, error)) error {
	for {
		if a.dataIP = a.findDataIP(ctx); !a.dataIP.IsValid() {
			return nil
		}
		err := a.hold(ctx, life, open)
		if !errors.Is(err, errMoved) || ctx.Err() != nil || life.Err() != nil {
			return err
		}
		a.log.Warn("starting over", "why", err)
	}
}

// hold takes the control socket and the tunnel port before it changes the machine:
// an agent that fails to start takes nothing from the one that runs.
func (a *Agent) hold(ctx, life context.Context, open func() (*machine, error)) (err error) {
	ctl, err := a.socket()
	if err != nil {
		return err
	}
	if err := ctl.Listen(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ctl.Close()) }()
	if a.tunnel, err = openTunnel(ctx, netip.AddrPortFrom(a.dataIP, a.config().Port)); err != nil {
		return err
	}
	defer a.tunnel.Close()
	a.store = &store{dataIP: a.dataIP, given: a.config().DataIP.IsValid(), network: a.network, guard: func() *guard { return a.guards() }, guarded: a.guarded, set: func(d *desired) {
		a.loop.Set(d)
		signal(a.touched)
	}}

	// From here on the machine is changed.
	if a.machine, err = open(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.endMachine(err != nil)) }()
	a.loop = reconcile.New(reconcile.Config[desired]{
		Targets: a.machine.targets, Revision: revision, Complete: complete, OnEvent: a.happened, Log: a.log, Verify: a.verify,
	})
	ctl.ShowStatus(func() api.AgentStatus {
		s := a.status()
		s.Refused = ctl.Refused()
		return s
	})
	ctl.OfferHandover(a.handover)
	ctl.OfferWeight(a.weigh)
	return a.serve(ctx, life, ctl)
}

// serve runs the parts until the agent has left the balancer or one part fails.
func (a *Agent) serve(ctx, life context.Context, ctl *control.AgentServer) error {
	a.tunnel.out = a.machine.out
	life, end := context.WithCancel(life)
	defer end()
	g, life := errgroup.WithContext(life)
	g.Go(func() error { return a.loop.Run(life) })
	g.Go(func() error { return a.follow(life) })
	g.Go(func() error { return a.lookGuarded(life) })
	for _, w := range a.machine.watches {
		g.Go(func() error { return a.keep(life, w) })
	}
	g.Go(func() error { return a.tunnel.Run(life) })
	g.Go(func() error { return a.observe(life) })
	g.Go(func() error { return a.prober.Run(life) })
	g.Go(func() error { return a.remind(life) })
	g.Go(func() error {
		return notify.Watchdog(func(context.Context) error { a.status(); return nil })(life) // it takes every lock
	})
	g.Go(func() error { return ctl.Run(life) })
	g.Go(func() error { return a.reportStop(ctx, life) })
	g.Go(func() error {
		defer end()
		return a.live(ctx, life, ctl.Ready())
	})
	if err := g.Wait(); err != nil {
		return err
	}
	c := &a.tunnel.Counters
	a.log.Info("agent stopped", "packets", c.Packets.Load(), "bytes", c.Bytes.Load(),
		"stray", c.Stray.Load(), "not_vip", c.NotVIP.Load(), "garbage", c.Garbage.Load(), "failed", c.Failed.Load(), "marked", c.Marked.Load())
	return nil
}

// remind writes of certificates that end soon to the log, at the start and each day.
func (a *Agent) remind(life context.Context) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for due := (auth.Reminder{}); ; {
		for _, text := range due.Due(a.config().Own, time.Now()) {
			a.log.Warn(text)
		}
		select {
		case <-tick.C:
		case <-life.Done():
			return nil
		}
	}
}

// live keeps sessions once the machine and the control socket are ready.
func (a *Agent) live(ctx, life context.Context, answers <-chan struct{}) error {
	if err := a.begin(life); err != nil {
		if life.Err() != nil {
			return nil
		}
		return err
	}
	select {
	case <-answers:
	case <-life.Done():
		return nil
	}
	if !a.isReady() {
		a.giveUp()
		close(a.ready)
		a.notify(notify.Ready)
	}
	a.reconnect(ctx, life)
	return nil
}

// reportStop tells the service manager when the stop begins, for it may take
// until the drain is over.
func (a *Agent) reportStop(ctx, life context.Context) error {
	select {
	case <-ctx.Done():
		a.notify(notify.Stopping)
	case <-life.Done():
	}
	return nil
}
