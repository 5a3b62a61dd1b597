// Package agent is the backend's side of Caplance: it registers the machine
// with a balancer, keeps the session up, and takes the packets that the
// balancer tunnels to it into the local stack, which answers the client
// directly.
//
//	cfg, err := agent.Load("/etc/caplance/agent.toml")
//	…
//	err = agent.New(cfg, log).Run(ctx) // until ctx ends
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/caplance/caplance/core/control"
)

// Agent registers one backend with one balancer. Make one with New.
type Agent struct {
	cfg   Config
	log   *slog.Logger
	ready chan struct{}
	state atomic.Uint32 // State
	ops   chan order

	// Of Run, constant while it lasts.
	dataIP  netip.Addr
	machine machine
	tunnel  *tunnel
	kernel  receiver // nil: every packet comes up to the tunnel
	checker *checker

	// Of keep's goroutine.
	wish State // Active, Paused or Draining: what the next session starts in
	code int   // of the last check
	held bool  // deregistered by the operator
}

// New prepares an agent and touches nothing.
func New(cfg Config, log *slog.Logger) *Agent {
	a := &Agent{cfg: cfg, log: log, ready: make(chan struct{}), ops: make(chan order), wish: Active}
	a.checker = &checker{target: cfg.Check, interval: cfg.CheckInterval, timeout: cfg.CheckTimeout, codes: make(chan int, 1)}
	a.code = a.checker.first()
	a.state.Store(uint32(Registering))
	return a
}

func (a *Agent) String() string { return "agent " + a.cfg.Name }

// Ready is closed when the tunnel is open and the control socket answers; the
// agent may not be registered yet.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// State is where the agent is with its balancer.
func (a *Agent) State() State { return State(a.state.Load()) }

func (a *Agent) setState(s State) {
	if old := State(a.state.Swap(uint32(s))); old != s {
		a.log.Info("state changed", "from", old, "to", s)
	}
}

// Run registers and serves until ctx ends, then leaves as the configuration
// says and undoes what it changed on the machine. An unreachable balancer is
// no error: the agent tries again.
func (a *Agent) Run(ctx context.Context) (err error) {
	if a.dataIP, err = a.findDataIP(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	h, err := openHost(a.cfg.StateDir, a.log)
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	if err := a.openKernel(); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	if a.kernel != nil {
		defer func() { err = errors.Join(err, a.kernel.Close()) }()
	}
	return a.run(ctx, h)
}

// run is Run on any machine.
func (a *Agent) run(ctx context.Context, m machine) (err error) {
	a.machine = m
	a.tunnel, err = openTunnel(ctx, netip.AddrPortFrom(a.dataIP, a.cfg.Port), m)
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	defer a.tunnel.Close()
	// Flows go on while the agent drains, so the rest outlives ctx.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	g, life := errgroup.WithContext(life)
	ctl := control.NewAgentServer(a.cfg.Control, a.cfg.Name, a.steer)
	g.Go(func() error { return a.tunnel.Run(life) })
	g.Go(func() error { return a.checker.Run(life) })
	g.Go(func() error { return ctl.Run(life) })
	g.Go(func() error {
		defer end()
		select {
		case <-ctl.Ready():
			close(a.ready)
			a.keep(ctx, life)
		case <-life.Done():
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	c := &a.tunnel.Counters
	a.log.Info("agent stopped", "packets", c.Packets.Load(), "bytes", c.Bytes.Load(),
		"stray", c.Stray.Load(), "not_vip", c.NotVIP.Load(), "garbage", c.Garbage.Load(), "failed", c.Failed.Load())
	return nil
}

// findDataIP is the configured address or else the one from which the server
// is reached, as soon as there is a route and a name for it.
func (a *Agent) findDataIP(ctx context.Context) (netip.Addr, error) {
	if a.cfg.DataIP.IsValid() {
		return a.cfg.DataIP, nil
	}
	for retry := (backoff{}); ; {
		conn, err := new(net.Dialer).DialContext(ctx, "udp", a.cfg.Server) // sends nothing
		if err == nil {
			defer conn.Close()
			return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
		}
		if ctx.Err() != nil {
			return netip.Addr{}, nil
		}
		a.log.Warn("no way to the balancer yet, trying again", "server", a.cfg.Server, "err", err)
		if !retry.wait(ctx) {
			return netip.Addr{}, nil
		}
	}
}
