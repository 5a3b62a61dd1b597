// Package registry is the balancer's side of the sessions that agents keep: it
// admits backends, proves their data path, holds their leases and hands every
// change to the datapath. docs/protocol.md is the protocol's definition.
//
//	r := registry.New(registry.Config{Addr: addr, Settings: settings, Apply: apply, …})
//	err := r.Listen(ctx) // the port is taken, nobody is served yet
//	…
//	err = r.Run(ctx) // until ctx ends
//	…
//	r.Update(settings) // at any time
package registry

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/auth"
)

// Config is what a Registry needs. The functions may be called from several
// goroutines at once, except Apply.
type Config struct {
	Addr     netip.AddrPort // where to listen, TCP
	Settings Settings       // until Update brings others

	// Sanity sends the datagram to the tunnel port of a data IP, on the path of
	// tunnelled packets. It must not block for long.
	Sanity func(to netip.Addr, datagram []byte) error
	// Offer returns what a v=2 agent sets up. It is called at registration, at
	// every HEALTH, which carries to the agent what has changed, and after
	// Offers. It must not wait for a session.
	Offer func(core.Backend) Offer
	// Refused returns why nobody can have a name or a data IP: the configuration has
	// the name, the balancer the address itself, or packets do not get there. It must
	// be quick. After a change in what it says comes Recheck. nil refuses none.
	Refused func(name string, data netip.Addr) error
	// Admin returns what an agent is told of the operator's orders for its backend,
	// a word, "" for nothing; nil: nothing. It must be quick.
	Admin func(backend string) string
	// Active returns the number of flows that a backend has now.
	Active func(core.Backend) int
	// CountedAt returns a time before which every flow began that Active counts
	// surely; nil: now.
	CountedAt func() time.Time
	// Live returns the number of connections that a backend's agent counts, 0 where
	// none does. A drain waits for them, too, if the flow table has lost some; nil: not.
	Live func(backend string) int
	// Apply takes all backends, ordered by name, after a change and returns the
	// revision that contains it. The calls come one after another; changes that
	// are made during a call share the next one. It must return quickly, may
	// call Backends, and must not wait for a session.
	Apply func(backends []core.Backend) (revision uint64)
	// Wait returns once the datapath works by a revision of Apply, or when ctx
	// ends. Sessions call it before they answer; nil waits for nothing.
	Wait func(ctx context.Context, revision uint64) error

	// Connections takes what agents tell of their connections; nil: they are not
	// asked to.
	Connections Connections

	// Joinable reports whether a token is out, and Join enrols a key by the secret of
	// one and returns whose it is from then on. nil: nobody joins.
	Joinable func() bool
	Join     func(secret []byte, key auth.PublicKey) (name string, err error)

	Log *slog.Logger
}

// Offer is what an agent sets up once it is registered.
type Offer struct {
	Direct    bool            // all packets come without a tunnel: MTU is the link's
	VIPs      []netip.Addr    // addresses for its lo
	Services  []*core.Service // those that it serves
	MTU       int             // largest IP packet for it, bytes
	TunnelMTU int             // largest IP packet through the tunnel; 0: not known
	Balancers []netip.Addr    // sources of tunnelled packets
}

// Registry serves the sessions. Make one with New.
type Registry struct {
	cfg      Config
	settings atomic.Pointer[Settings]
	leases   leases
	conns    connLimiter
	streams  streams
	quiet    *logLimiter // of strangers
	known    *logLimiter // of registered agents
	sanities pool
	comings  buckets // of agents that are admitted
	counted  counted
	ready    chan struct{}
	recheck  chan struct{} // holds one
	offers   atomic.Uint64 // how often they may have changed
	wg       sync.WaitGroup

	binding  sync.Mutex // guards what follows
	listener net.Listener
	bound    netip.AddrPort // as configured
}

// New checks nothing and starts nothing.
func New(cfg Config) *Registry {
	r := &Registry{cfg: cfg, ready: make(chan struct{}), recheck: make(chan struct{}, 1), quiet: &logLimiter{log: cfg.Log}, known: &logLimiter{log: cfg.Log, listed: true}}
	cfg.Settings.Limits.fill()
	r.settings.Store(&cfg.Settings)
	r.leases = leases{cfg: &r.cfg, settings: &r.settings, entries: map[string]*entry{}}
	r.conns.init()
	r.streams.owners, r.streams.open = map[string]*session{}, map[string]*stream{}
	return r
}

func (r *Registry) String() string { return "registry " + r.cfg.Addr.String() }

// Ready returns a channel that is closed once agents are served.
func (r *Registry) Ready() <-chan struct{} { return r.ready }

// Session is one that a backend is registered by.
type Session struct {
	Backend string
	Agent   string // whose it is; "" where agents prove nothing
	Peer    netip.AddrPort
	Proven  *auth.Identity // nil: nothing
	Heard   time.Time      // when its last line came
	Lease   time.Duration  // how long it may be silent
}

// Sessions returns those that there are, ordered by backend.
func (r *Registry) Sessions() []Session { return r.leases.sessions() }

// Backends returns the registered backends, ordered by name.
func (r *Registry) Backends() []core.Backend { return r.leases.backends() }
