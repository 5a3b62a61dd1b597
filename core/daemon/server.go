// Package daemon puts the balancer together: it starts the parts in the order
// in which they depend on each other, and stops them in the opposite one.
// Everything that can be refused is checked before the machine is changed, and
// every change is taken back, also by the next start after a kill.
//
//	err := daemon.New(cfg, log).Run(ctx) // until ctx ends
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/control"
	"github.com/caplance/caplance/core/datapath"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/forward"
	"github.com/caplance/caplance/core/hostnet"
	"github.com/caplance/caplance/core/metrics"
	"github.com/caplance/caplance/core/registry"
	"github.com/caplance/caplance/core/ruleset"
	"github.com/caplance/caplance/core/verdict"
	"golang.org/x/sync/errgroup"
)

// Server is one balancer. Make it with New and run it once.
type Server struct {
	cfg     *config.Server
	log     *slog.Logger
	ready   chan struct{}
	started time.Time

	policies *policySet
	ledger   *datapath.Ledger
	pools    *pools
	registry *registry.Registry
	workers  []*worker
	method   ruleset.Method
	rung     string
	kernel   *fastpath.Balancer // nil: userspace

	flowQueue func(*core.FlowKey) int // which worker owns a flow
	stop      context.CancelFunc
	leaving   atomic.Bool // what is in the kernel stays, for a successor
}

// worker is one queue with all that works on it.
type worker struct {
	queue  uint16
	path   *datapath.Worker
	loop   *verdict.Loop
	sender *forward.Sender
}

// New prepares a server; nothing happens before Run.
func New(cfg *config.Server, log *slog.Logger) *Server {
	return &Server{cfg: cfg, log: log, ready: make(chan struct{})}
}

// Ready is closed when packets are being forwarded.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Check compiles the configuration's policies and starts each once.
func Check(ctx context.Context, cfg *config.Server) error {
	p, err := loadPolicies(ctx, cfg, 1, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	return p.close()
}

// undo is a stack of what to take back.
type undo []func() error

func (u *undo) add(f func() error) { *u = append(*u, f) }

func (u *undo) run() (err error) {
	for i := len(*u) - 1; i >= 0; i-- {
		err = errors.Join(err, (*u)[i]())
	}
	return err
}

// Run balances until ctx ends, which is no error, or a part fails.
func (s *Server) Run(ctx context.Context) (err error) {
	var back undo
	defer func() { err = errors.Join(err, back.run()) }()
	ctx, s.stop = context.WithCancel(ctx)
	defer s.stop()

	s.started = time.Now()
	queues := s.cfg.Datapath.Queues
	if queues == 0 {
		queues = runtime.NumCPU()
	}
	if s.policies, err = loadPolicies(ctx, s.cfg, queues, s.log); err != nil {
		return err
	}
	back.add(s.policies.close)
	mem, err := remember(filepath.Join(s.cfg.StateDir, "pools.json"), s.cfg.Datapath.Timeouts.TCP, s.cfg.Registry.ReadTimeout+5*time.Second)
	if err != nil {
		return err
	}

	// From here on the machine is changed.
	journal, err := hostnet.Open(filepath.Join(s.cfg.StateDir, "server.journal"))
	if err != nil {
		return err
	}
	back.add(s.either(journal.Close, journal.Leave))
	if n := journal.Reclaimed(); n > 0 {
		s.log.Warn("the last run was killed; its changes were taken back", "changes", n)
	}
	addrs, err := addresses() // after the journal took back what a predecessor added
	if err != nil {
		return err
	}
	s.ledger = datapath.NewLedger(queues, len(s.cfg.Services))
	s.pools = newPools(s.cfg.Services, s.ledger, mem, s.log)

	if s.kernel, err = s.openKernel(addrs); err != nil {
		return err
	}
	if s.kernel != nil {
		back.add(s.either(s.kernel.Close, s.kernel.Leave))
	}
	s.pools.kernel, s.pools.port = s.kernel, s.cfg.Datapath.TunnelPort

	sane, err := openSanity(s.cfg.Datapath.TunnelPort)
	if err != nil {
		return err
	}
	back.add(sane.close)
	capture := &ruleset.Capture{
		Services: s.cfg.Services, FirstQueue: s.cfg.Datapath.FirstQueue, Queues: queues,
		Seed: rand.Uint32(), TunnelPort: s.cfg.Datapath.TunnelPort,
	}
	s.flowQueue = capture.FlowQueue
	if err := s.openWorkers(capture, linkMTU(addrs, s.cfg.Services), &back); err != nil {
		return err
	}
	loops, stopLoops := s.startLoops(ctx)
	back.add(stopLoops)
	// Also the rules of a killed predecessor, whatever fails below.
	back.add(s.either(ruleset.Remove, func() error { return nil }))
	if s.method, err = capture.Apply(); err != nil {
		return err
	}
	if err := addVIPs(journal, addrs, s.cfg.Services, s.log); err != nil {
		return err
	}
	if err := s.pools.start(); err != nil {
		return err
	}
	s.registry = registry.New(s.registryConfig(addrs, sane))
	return s.serve(ctx, loops)
}

// either is the way to close a part: for good, or to leave it to a successor.
func (s *Server) either(closing, leaving func() error) func() error {
	return func() error {
		if s.leaving.Load() {
			return leaving()
		}
		return closing()
	}
}

// serve runs the parts that talk to others until ctx ends or one part fails.
func (s *Server) serve(ctx context.Context, loops *errgroup.Group) error {
	g, ctx := errgroup.WithContext(ctx)
	ctl := control.NewServer(s.cfg.Control, s, s)
	ctl.OfferRecordings(s)
	g.Go(func() error { return s.registry.Run(ctx) })
	g.Go(func() error { return ctl.Run(ctx) })
	g.Go(func() error { return s.pools.watch(ctx) })
	g.Go(func() error { return s.beat(ctx) })
	g.Go(func() error { return s.census(ctx) })
	if s.cfg.Metrics != "" {
		g.Go(func() error { return metrics.New(s.cfg.Metrics, s).Run(ctx) })
	}
	for _, sp := range s.policies.services {
		g.Go(func() error { return s.keepTable(ctx, sp) })
	}
	failed := make(chan error, 1)
	go func() { failed <- loops.Wait() }()
	g.Go(func() error {
		select {
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
	})
	g.Go(func() error {
		for _, r := range []<-chan struct{}{s.registry.Ready(), ctl.Ready()} {
			select {
			case <-r:
			case <-ctx.Done():
				return nil
			}
		}
		close(s.ready)
		s.log.Info("balancing", "services", len(s.cfg.Services), "queues", len(s.workers), "capture", s.method, "rung", s.rung,
			"registry", s.registry.Addr(), "control", s.cfg.Control)
		return notify("READY=1")
	})
	err := g.Wait()
	s.log.Info("stopping")
	return errors.Join(err, notify("STOPPING=1"))
}

// openWorkers binds the queues and makes their workers.
func (s *Server) openWorkers(capture *ruleset.Capture, mtu int, back *undo) error {
	var paths []*datapath.Worker
	d := s.cfg.Datapath
	for i := range capture.Queues {
		sender, err := forward.Open(d.TunnelPort)
		if err != nil {
			return err
		}
		back.add(sender.Close)
		raw, err := forward.OpenRaw()
		if err != nil {
			return err
		}
		back.add(raw.Close)
		q, err := verdict.Open(verdict.Config{
			Queue: d.FirstQueue + uint16(i), Length: d.QueueLength, Buffer: 32 << 20, Tick: 20 * time.Millisecond,
		})
		if err != nil {
			return err
		}
		back.add(q.Close)
		var kernel datapath.Kernel
		if s.kernel != nil {
			kernel = s.kernel.Placer()
		}
		path := datapath.NewWorker(datapath.Config{
			Index: i, Services: s.cfg.Services, Pools: s.pools.out, Schedulers: s.policies.schedulersOf(i),
			Sender: sender, Errors: raw, Kernel: kernel, Flows: d.Flows / capture.Queues, Timeouts: d.Timeouts,
			FlowQueue: capture.FlowQueue, Ledger: s.ledger, LinkMTU: mtu, Seed: rand.Uint64(),
		})
		paths = append(paths, path)
		s.workers = append(s.workers, &worker{d.FirstQueue + uint16(i), path, verdict.NewLoop(q, path), sender})
	}
	for _, w := range s.workers {
		w.path.Connect(paths, w.loop.Wake)
	}
	return nil
}

// startLoops runs the workers until the returned function is called: they
// outlive ctx until nothing sends them packets any more.
func (s *Server) startLoops(ctx context.Context) (*errgroup.Group, func() error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	g, ctx := errgroup.WithContext(ctx)
	for _, w := range s.workers {
		g.Go(func() error { return w.loop.Run(ctx) })
	}
	return g, func() error {
		cancel()
		_ = g.Wait() // serve reports it
		return nil
	}
}

func (s *Server) registryConfig(addrs []address, sane *sanity) registry.Config {
	r := s.cfg.Registry
	agents := r.Agents
	if len(agents) == 0 {
		agents = connected(addrs, r.Listen.Addr())
		s.log.Info("agents may register from the connected networks", "networks", agents)
	}
	names := make([]string, len(s.cfg.Services))
	for i, svc := range s.cfg.Services {
		names[i] = svc.Name
	}
	return registry.Config{
		Addr: r.Listen, Agents: agents, Services: names,
		ReadTimeout: r.ReadTimeout, WriteTimeout: r.WriteTimeout, SanityTimeout: r.SanityTimeout, DrainTimeout: r.DrainTimeout,
		Sanity: sane.send, Offer: s.pools.offer, Active: s.pools.active, OnChange: s.pools.change, Log: s.log,
	}
}

// addVIPs makes the machine answer for the VIPs.
func addVIPs(j *hostnet.Journal, addrs []address, services []*core.Service, log *slog.Logger) error {
	for _, s := range services {
		link, _ := linkOf(addrs, s.VIP)
		if err := j.AddAddr(link, netip.PrefixFrom(s.VIP, s.VIP.BitLen())); err != nil {
			return fmt.Errorf("service %s: vip %v: %w", s.Name, s.VIP, err)
		}
		log.Debug("vip", "service", s.Name, "vip", s.VIP, "link", link)
		if err := announce(link, s.VIP); err != nil {
			log.Warn("neighbours not told of the vip; they learn when they ask", "err", err)
		}
		if link == "lo" {
			log.Warn("vip is in no connected network: a router must send its packets here", "service", s.Name, "vip", s.VIP)
		}
	}
	return nil
}

// linkMTU is the largest MTU of the links that the VIPs are on.
func linkMTU(addrs []address, services []*core.Service) int {
	most := 0
	for _, s := range services {
		_, mtu := linkOf(addrs, s.VIP)
		most = max(most, mtu)
	}
	return most
}

// sanity sends the registry's probes by the way of tunnelled packets.
type sanity struct {
	mu     sync.Mutex
	sender *forward.Sender
}

func openSanity(port uint16) (*sanity, error) {
	t, err := forward.Open(port)
	return &sanity{sender: t}, err
}

func (s *sanity) send(to netip.Addr, datagram []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.sender.Packets.Load()
	s.sender.Tunnel(to, rand.Uint64(), datagram)
	s.sender.Flush()
	if s.sender.Packets.Load() == before {
		return fmt.Errorf("tunnel to %v: probe not sent: no route, or the datagram is too long", to)
	}
	return nil
}

func (s *sanity) close() error { return s.sender.Close() }
