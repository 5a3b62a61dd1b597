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
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/hostnet"
	"github.com/caplance/caplance/core/netmon"
	"github.com/caplance/caplance/core/privilege"
	"github.com/caplance/caplance/core/probe"
	"github.com/caplance/caplance/core/reconcile"
)

// Agent registers one backend with one balancer. Make one with New.
type Agent struct {
	cfg        atomic.Pointer[Config] // replaced by a reload, never changed
	log        *slog.Logger
	ready      chan struct{}
	stopped    chan struct{}                 // closed when Run has returned
	state      atomic.Uint32                 // State
	ordered    atomic.Pointer[string]        // what the balancer's operator orders; nil: nothing was heard
	proven     atomic.Pointer[auth.Identity] // by what the session is; nil: there is none, or it proves nothing
	ops        chan command
	reloads    chan reload
	logs       LogSettings                        // nil: cannot change
	drop       func(*slog.Logger, privilege.Plan) // nil: nothing is given up
	guards     func() *guard                      // what the machine needs itself; tests have none
	lock       func(stateDir string) (io.Closer, error)
	verify     time.Duration // between two looks at the machine that nothing gave a reason for
	guardEvery time.Duration // between two looks at what the machine needs itself
	stirred    chan struct{} // holds one: a target fails, or works again
	touched    chan struct{} // holds one: the loop changes the machine
	judged     chan struct{} // holds one: the machine gets other VIPs of the same offer

	reloading sync.Mutex  // held over Reload
	released  atomic.Bool // the machine is left to a successor

	// Of Run, constant while it lasts.
	dataIP  netip.Addr
	network *netmon.Monitor
	store   *store
	loop    *reconcile.Loop[desired]
	machine *machine
	tunnel  *tunnel
	prober  *probe.Runner
	targets []probe.Target     // that it checks; belongs to the goroutine of reconnect
	leave   context.CancelFunc // ends Run without a word to the balancer
	stops   <-chan struct{}    // closed when the stop begins

	// Of the goroutine of reconnect.
	admin State // Active, Paused or Draining: what the next session starts in
	code  int   // of the last check
	held  bool  // deregistered by the operator
}

// New prepares an agent and touches nothing.
func New(cfg Config, log *slog.Logger) *Agent {
	a := &Agent{
		log: log, ready: make(chan struct{}), stopped: make(chan struct{}),
		ops: make(chan command), reloads: make(chan reload), admin: Active, prober: probe.New(log),
		lock: takeLock, verify: reconcile.DefaultVerify, guardEvery: defaultGuardEvery, stirred: make(chan struct{}, 1), touched: make(chan struct{}, 1), judged: make(chan struct{}, 1),
	}
	a.guards = a.newGuard
	a.apply(&cfg)
	a.state.Store(uint32(Registering))
	return a
}

// takeLock makes this agent the only one of its network namespace and of its
// state directory.
func takeLock(stateDir string) (io.Closer, error) { return hostnet.TakeLock(hostnet.Agent, stateDir) }

func (a *Agent) String() string { return "agent " + a.config().Name }

// config returns the configuration that holds now.
func (a *Agent) config() *Config { return a.cfg.Load() }

// apply makes another configuration hold.
func (a *Agent) apply(cfg *Config) {
	a.cfg.Store(cfg)
	a.prober.Set(cfg.Checks, a.targets)
}

// Ready returns a channel that is closed when the tunnel is open and the control
// socket answers; the agent may not be registered yet.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// State returns where the agent is with its balancer.
func (a *Agent) State() State { return State(a.state.Load()) }

func (a *Agent) setState(s State) {
	if old := State(a.state.Swap(uint32(s))); old != s {
		a.log.Info("state changed", "from", old, "to", s)
	}
}

// notify tells the service manager, whose absence is no reason to fail.
func (a *Agent) notify(what func() error) {
	if err := what(); err != nil {
		a.log.Warn("service manager not notified", "err", err)
	}
}

func (a *Agent) isReady() bool {
	select {
	case <-a.ready:
		return true
	default:
		return false
	}
}
