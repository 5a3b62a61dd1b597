package config

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/auth"
)

// Server is a balancer's valid configuration. It is not changed once it is
// read.
type Server struct {
	StateDir           string
	Log                Log
	Sandbox            Sandbox
	Registry           Registry
	Datapath           Datapath
	Policy             Policy
	Control            string          // path of the unix socket
	ControlGroup       string          // may do all there, beside root; "" for nobody
	ControlReadGroup   string          // may ask there
	ControlClients     int             // connections there at once
	Metrics            string          // host:port for Prometheus, "" for none
	MetricsConnections int             // connections there at once
	MetricsPprof       bool            // Go's profiles are there, too
	Services           []*core.Service // in the order of the file, their IDs zero
	Static             []StaticBackend // of all services, in the order of core.CompareBackends
	Known              []auth.Agent    // in the order of the file; the agents that may register with AuthKeys and AuthCA

	doc *Document // where the keys stand; nil when it was not read from a file
}

// Registry says who may register and for how long a silence is forgiven.
type Registry struct {
	Listen        netip.AddrPort
	Agents        []netip.Prefix // empty: the networks of the registry address
	Allow         []netip.Prefix // with AuthNone: data IPs beside the address that an agent comes from
	Lease         time.Duration  // the longest silence of an agent, as it is told
	Grace         time.Duration  // how much longer it may be
	PlainLease    time.Duration  // of agents that cannot be told
	Rejoin        time.Duration  // how long flows stay at a backend whose session broke
	WriteTimeout  time.Duration
	SanityTimeout time.Duration
	Limits        Limits
	DrainTimeout  time.Duration
	Auth          Auth
	Key           string           // file, with AuthKeys
	Certificate   auth.Files       // with AuthCA
	Own           auth.Credentials // what is in these; nil with AuthNone
	Enrolled      string           // file of the agents that joined
}

// Limits bound what others can have the registry do.
type Limits struct {
	Connections int // that have not registered
	PerAddress  int // of these, from one address
	Handshake   time.Duration
	Backends    int
	Lines       int // of a session, a second
	Changes     int // of a session's backend, a second
	Records     int // of an agent's connections, a second
	Sanity      int // datagrams of all sessions, a second
}

// Auth says how agents prove who they are.
type Auth string

// The ways.
const (
	AuthKeys Auth = "keys" // by the keys that [[agent]] lists
	AuthCA   Auth = "ca"   // by certificates of an authority, whose names [[agent]] lists
	AuthNone Auth = "none" // they do not: whoever is in a network of [registry] agents may register
)

// Datapath sizes the packet path.
type Datapath struct {
	Type        core.DatapathType
	Links       []string // where clients come in; empty: every link with an address
	Queues      int      // 0: one per CPU
	FirstQueue  uint16
	QueueLength uint32 // packets
	TunnelPort  uint16
	Flows       int // of all workers together
	MaxBackends int // memberships: backends times the services that they are in
	HostAccess  core.HostAccess
	Timeouts    core.Timeouts
}

// Policy is what a policy may use up; the [policy] table as it stands.
type Policy struct {
	MaxModuleBytes int   `toml:"max_module_bytes"`
	MaxMemoryPages int   `toml:"max_memory_pages"` // of 64 KiB
	MaxDepth       int   `toml:"max_depth"`        // functions that call others, one inside the other
	LogBytes       int   `toml:"log_bytes"`        // of an instance
	PickFuel       int64 `toml:"pick_fuel"`        // about one unit per instruction
	CallFuel       int64 `toml:"call_fuel"`
	StartFuel      int64 `toml:"start_fuel"`
}

// Settings returns what the configuration says of the datapath as a whole,
// with a number of queues that is known by now: [datapath] queues, or the
// number of CPUs where that is 0.
func (s *Server) Settings(queues int) *core.Settings {
	d := s.Datapath
	return &core.Settings{
		Type: d.Type, Queues: queues, FirstQueue: d.FirstQueue, QueueLength: d.QueueLength, TunnelPort: d.TunnelPort,
		Flows: d.Flows, MaxBackends: d.MaxBackends, Timeouts: d.Timeouts, HashSeed: uint32(defaultSeed("[datapath]")), HostAccess: d.HostAccess,
	}
}

// File returns the file that it was read from.
func (s *Server) File() string { return s.doc.Path() }

// Doubts returns what the configuration allows and better did not; waited says that
// agents have joined, or may, which it does not list.
func (s *Server) Doubts(waited bool) (out []string) {
	if s.Registry.Auth == AuthNone {
		out = append(out, `registry.auth is "none": whoever is in the networks of registry.agents can register as any backend and take its traffic (set "keys")`)
	}
	if s.Registry.Auth == AuthKeys && len(s.Known) == 0 && !waited && len(s.Static) == 0 {
		out = append(out, "no [[agent]] is listed and none has joined: nobody can register (caplancectl token create lets one join)")
	}
	if s.Registry.Auth == AuthCA && len(s.Known) == 0 && len(s.Static) == 0 {
		out = append(out, "no [[agent]] is listed: nobody can register, whatever certificate it has (name and san)")
	}
	if at, err := netip.ParseAddrPort(s.Metrics); err == nil && s.MetricsPprof && !at.Addr().IsLoopback() {
		out = append(out, fmt.Sprintf("metrics_pprof is on, and metrics = %q is for more than this machine: whoever reaches it sees what the balancer does and may have it write profiles all the time (set 127.0.0.1)", s.Metrics))
	}
	return append(out, s.Expiring()...)
}

// Expiring returns which certificates have ended, or will soon.
func (s *Server) Expiring() []string { return auth.Expiring(s.Registry.Own, time.Now()) }

// Replaces returns why s should not take another's place: nobody would take its new
// certificates.
func (s *Server) Replaces(was *Server) error {
	if err := auth.Replaces(was.Registry.Own, s.Registry.Own, time.Now()); err != nil {
		return s.doc.Errorf("registry.cert_file", "%w", err)
	}
	return nil
}

// LongestTimeout returns how long a TCP flow of any service may be silent.
func (s *Server) LongestTimeout() time.Duration {
	longest := s.Datapath.Timeouts.TCP
	for _, svc := range s.Services {
		longest = max(longest, svc.Timeouts.TCP)
	}
	return longest
}

// LoadServer reads and validates a balancer's file, and reads its key or certificate. It
// touches nothing else.
func LoadServer(path string) (*Server, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	cfg, err := ParseServer(path, data)
	if err != nil {
		return nil, err
	}
	if err := cfg.loadCredentials(); err != nil {
		return nil, err
	}
	return cfg, nil
}

// loadCredentials reads what the balancer proves itself by: nothing that an agent has.
func (s *Server) loadCredentials() error {
	r := &s.Registry
	switch r.Auth {
	case AuthKeys:
		pair, err := auth.LoadKeyPair(r.Key)
		if err != nil {
			return s.doc.Errorf("registry.key", "%w", err)
		}
		if a := auth.FindKey(s.Known, pair.Public()); a != nil {
			return s.doc.Errorf("registry.key", "it is agent %q's, too: each machine has its own (caplance keygen)", a.Name)
		}
		r.Own = pair
	case AuthCA:
		cert, err := auth.LoadCertificate(r.Certificate, x509.ExtKeyUsageServerAuth)
		var file *auth.FileError
		if errors.As(err, &file) {
			return s.doc.Errorf("registry."+file.Key, "%w", file.Err)
		}
		if a, err := auth.Find(s.Known, cert.Identity()); err == nil {
			return s.doc.Errorf("registry.cert_file", "certificate %s is agent %q's, too: each machine has its own", cert.Identity(), a.Name)
		}
		r.Own = cert
	}
	return nil
}

// ParseServer validates the content of a balancer's file; path is for
// messages. All findings are reported at once, each an *Error.
func ParseServer(path string, data []byte) (*Server, error) {
	raw := defaultServer()
	doc, err := Decode(path, data, &raw)
	if err != nil {
		return nil, err
	}
	v := &validator{doc: doc}
	cfg := &Server{
		StateDir:     v.path("state_dir", raw.StateDir),
		Log:          raw.Log,
		Sandbox:      raw.Sandbox,
		Control:      v.path("control", raw.Control),
		ControlGroup: v.group("control_group", raw.Group), ControlReadGroup: v.group("control_read_group", raw.Read),
		ControlClients:     v.integer("control_clients", raw.Clients, 1, MaxClients),
		Metrics:            v.metrics("metrics", raw.Metrics),
		MetricsConnections: v.integer("metrics_connections", raw.MetricsConnections, 1, MaxClients),
		MetricsPprof:       raw.MetricsPprof,
		Registry:           v.registry(raw.Registry),
		Datapath:           v.datapath(raw.Datapath),
		Policy:             v.policy(raw.Policy),
		Services:           v.services(raw.Service),
		Known:              v.agents(raw.Agent, raw.Service, Auth(raw.Registry.Auth)),
		doc:                doc,
	}
	cfg.Static = v.statics(raw.Service, cfg.Services)
	v.fail(raw.Log.Check(doc, "log"))
	v.fail(raw.Sandbox.Check(doc, "sandbox"))
	v.conflicts(cfg)
	if len(v.errs) > 0 {
		return nil, errors.Join(v.errs...)
	}
	return cfg, nil
}
