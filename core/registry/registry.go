// Package registry is the balancer's side of the sessions that agents keep: it
// admits backends, proves their data path, holds their leases and tells the
// datapath who there is. docs/protocol.md is the protocol's definition.
//
//	r := registry.New(registry.Config{Addr: addr, OnChange: rebuildPools, …})
//	err := r.Run(ctx) // until ctx ends
package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/caplance/caplance/core"
)

// Config is what a Registry needs. The functions may be called from several
// goroutines at once, except OnChange.
type Config struct {
	Addr   netip.AddrPort // where to listen, TCP
	Agents []netip.Prefix // peers that may speak; all others are hung up on

	ReadTimeout   time.Duration // the lease: between two lines
	WriteTimeout  time.Duration // for one answer
	SanityTimeout time.Duration // between REGISTER and SANE
	DrainTimeout  time.Duration // from DRAIN until flows are re-scheduled

	Services []string // services= may name these

	// Sanity sends the datagram to the tunnel port of a data IP, by the way
	// that tunnelled packets take. It must not block for long.
	Sanity func(to netip.Addr, datagram []byte) error
	// Offer is what a v=2 agent is told at registration.
	Offer func(core.Backend) Offer
	// Active is the number of flows that a backend has now.
	Active func(name string) int
	// OnChange gets all backends, ordered by name, after each change of one;
	// the calls come one after another, before the agent has its answer. It
	// may call Backends, and must not wait for a session.
	OnChange func([]core.Backend)

	Log *slog.Logger
}

// Offer is what an agent sets up once it is registered.
type Offer struct {
	Direct    bool         // all packets come without a tunnel: MTU is the link's
	VIPs      []netip.Addr // addresses for its lo
	MTU       int          // largest IP packet through the tunnel, bytes
	Balancers []netip.Addr // sources of tunnelled packets
}

// Registry serves the sessions. Make one with New.
type Registry struct {
	cfg    Config
	roster roster
	quiet  *limiter
	ready  chan struct{}
	bound  netip.AddrPort // once ready
	door   door
	wg     sync.WaitGroup
}

// New checks nothing and starts nothing.
func New(cfg Config) *Registry {
	r := &Registry{cfg: cfg, ready: make(chan struct{}), quiet: &limiter{log: cfg.Log}}
	r.roster = roster{cfg: &r.cfg, entries: map[string]*entry{}}
	r.door.waiting = map[*session]time.Time{}
	return r
}

func (r *Registry) String() string { return "registry " + r.cfg.Addr.String() }

// Ready is closed once agents can connect.
func (r *Registry) Ready() <-chan struct{} { return r.ready }

// Addr is the address that is listened on, known once Ready is closed.
func (r *Registry) Addr() netip.AddrPort { return r.bound }

// Backends are the registered backends, ordered by name, the latest load= of
// their heartbeats included.
func (r *Registry) Backends() []core.Backend { return r.roster.backends() }

// Run serves agents until ctx ends or the listener fails, then hangs up and
// waits for the sessions. The backends stay listed: their flows go on.
func (r *Registry) Run(ctx context.Context) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", r.cfg.Addr.String())
	if err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	r.bound = l.Addr().(*net.TCPAddr).AddrPort()
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer func() {
		cancel()
		stop()
		l.Close()
		r.wg.Wait()
	}()
	r.wg.Go(func() { r.keepTime(ctx) })
	close(r.ready)
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			r.accept(ctx, conn)
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("registry: %w", err)
		default: // out of files or memory: others may give some back
			r.quiet.warn("agent not accepted", "err", err)
			pause(ctx, 100*time.Millisecond)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// keepTime ends leases and drains. Its pace bounds how late they end.
func (r *Registry) keepTime(ctx context.Context) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			expired, drained := r.roster.sweep(now)
			for _, name := range expired {
				r.cfg.Log.Warn("lost backend removed: lease expired", "backend", name)
			}
			for _, name := range drained {
				r.cfg.Log.Info("backend drained", "backend", name)
			}
		}
	}
}
