package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/flow"
)

// Server is a balancer's valid configuration.
type Server struct {
	StateDir string
	Log      Log
	Registry Registry
	Datapath Datapath
	Policy   Policy
	Control  string // path of the unix socket
	Metrics  string // host:port for Prometheus, "" for none
	Services []*core.Service
}

// Registry says who may register and for how long a silence is forgiven.
type Registry struct {
	Listen        netip.AddrPort
	Agents        []netip.Prefix // empty: the networks of the registry address
	ReadTimeout   time.Duration
	WriteTimeout  time.Duration
	SanityTimeout time.Duration
	DrainTimeout  time.Duration
}

// Datapath sizes the packet path.
type Datapath struct {
	Rung        Rung
	Links       []string // where clients come in; empty: every link with an address
	Queues      int      // 0: one per CPU
	FirstQueue  uint16
	QueueLength uint32 // packets
	TunnelPort  uint16
	Flows       int // of all workers together
	Timeouts    flow.Timeouts
}

// Rung is how far down packets are forwarded.
type Rung string

// The rungs.
const (
	Auto      Rung = "auto"      // tc where this kernel has it, else userspace
	XDP       Rung = "xdp"       // BPF in the links' drivers, and tc for what that leaves; an error where it is not to be had
	TC        Rung = "tc"        // BPF at the links' ingress; an error where it is not to be had
	Userspace Rung = "userspace" // every packet by NFQUEUE
)

// ParseRung reads a rung's name.
func ParseRung(s string) (Rung, error) {
	switch r := Rung(s); r {
	case Auto, XDP, TC, Userspace:
		return r, nil
	}
	return "", fmt.Errorf("%q is not a rung (auto, xdp, tc, userspace)", s)
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

// rawServer mirrors the file.
type rawServer struct {
	StateDir string       `toml:"state_dir"`
	Log      Log          `toml:"log"`
	Registry rawRegistry  `toml:"registry"`
	Datapath rawDatapath  `toml:"datapath"`
	Policy   Policy       `toml:"policy"`
	Control  string       `toml:"control"`
	Metrics  string       `toml:"metrics"`
	Service  []rawService `toml:"service"`
}

type rawRegistry struct {
	Listen        string   `toml:"listen"`
	Agents        []string `toml:"agents"`
	ReadTimeout   string   `toml:"read_timeout"`
	WriteTimeout  string   `toml:"write_timeout"`
	SanityTimeout string   `toml:"sanity_timeout"`
	DrainTimeout  string   `toml:"drain_timeout"`
}

type rawDatapath struct {
	Rung        string      `toml:"rung"`
	Links       []string    `toml:"links"`
	Queues      int         `toml:"queues"`
	FirstQueue  int         `toml:"first_queue"`
	QueueLength int         `toml:"queue_length"`
	TunnelPort  int         `toml:"tunnel_port"`
	Flows       int         `toml:"flows"`
	Timeouts    rawTimeouts `toml:"timeouts"`
}

type rawTimeouts struct {
	TCP    string `toml:"tcp"`
	TCPSyn string `toml:"tcp_syn"`
	TCPFin string `toml:"tcp_fin"`
	UDP    string `toml:"udp"`
}

func defaultServer() rawServer {
	return rawServer{
		StateDir: "/run/caplance",
		Log:      DefaultLog(),
		Registry: rawRegistry{
			Listen: "0.0.0.0:1338", ReadTimeout: "30s", WriteTimeout: "10s", SanityTimeout: "5s", DrainTimeout: "60s",
		},
		Datapath: rawDatapath{
			Rung: "auto", FirstQueue: 1337, QueueLength: 8192, TunnelPort: 1337, Flows: 1 << 20,
			Timeouts: rawTimeouts{TCP: "15m", TCPSyn: "60s", TCPFin: "60s", UDP: "2m"},
		},
		Policy: Policy{
			MaxModuleBytes: 16 << 20, MaxMemoryPages: 256, MaxDepth: 1024, LogBytes: 4096,
			PickFuel: 600_000, CallFuel: 300_000_000, StartFuel: 300_000_000,
		},
		Control: "/var/run/caplance-server.sock",
	}
}

// LoadServer reads and validates a balancer's file. It touches nothing else.
func LoadServer(path string) (*Server, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return ParseServer(path, data)
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
		StateDir: v.path("state_dir", raw.StateDir),
		Log:      raw.Log,
		Control:  v.path("control", raw.Control),
		Metrics:  v.metrics("metrics", raw.Metrics),
		Registry: v.registry(raw.Registry),
		Datapath: v.datapath(raw.Datapath),
		Policy:   v.policy(raw.Policy),
		Services: v.services(raw.Service),
	}
	v.fail(raw.Log.Check(doc, "log"))
	if len(v.errs) > 0 {
		return nil, errors.Join(v.errs...)
	}
	return cfg, nil
}

// validator turns raw values into typed ones and collects the findings.
type validator struct {
	doc  *Document
	errs []error
}

func (v *validator) fail(err error) {
	if err != nil {
		v.errs = append(v.errs, err)
	}
}

func (v *validator) failf(key, format string, args ...any) {
	v.fail(v.doc.Errorf(key, format, args...))
}

func (v *validator) path(key, value string) string {
	if len(value) == 0 || value[0] != '/' {
		v.failf(key, "%q is not an absolute path", value)
	}
	return value
}

func (v *validator) metrics(key, value string) string {
	if value != "" {
		if a, err := netip.ParseAddrPort(value); err != nil || a.Port() == 0 {
			v.failf(key, "%q is not ADDRESS:PORT (like \"127.0.0.1:9338\")", value)
		}
	}
	return value
}

func (v *validator) rung(key, value string) Rung {
	r, err := ParseRung(value)
	if err != nil {
		v.failf(key, "%w", err)
	}
	return r
}

func (v *validator) integer(key string, value, least, most int) int {
	if value < least || value > most {
		v.failf(key, "%d is out of range (%d to %d)", value, least, most)
	}
	return value
}

func (v *validator) duration(key, value string, least, most time.Duration) time.Duration {
	d, err := v.doc.Duration(key, value, least, most)
	v.fail(err)
	return d
}

func (v *validator) registry(raw rawRegistry) Registry {
	listen, err := netip.ParseAddrPort(raw.Listen)
	if err != nil || listen.Port() == 0 {
		v.failf("registry.listen", "%q is not ADDRESS:PORT with a port from 1 to 65535 (like \"10.0.0.1:1338\" or \"[::]:1338\")", raw.Listen)
	}
	r := Registry{
		Listen:        listen,
		ReadTimeout:   v.duration("registry.read_timeout", raw.ReadTimeout, 100*time.Millisecond, time.Hour),
		WriteTimeout:  v.duration("registry.write_timeout", raw.WriteTimeout, 100*time.Millisecond, time.Hour),
		SanityTimeout: v.duration("registry.sanity_timeout", raw.SanityTimeout, 100*time.Millisecond, time.Minute),
		DrainTimeout:  v.duration("registry.drain_timeout", raw.DrainTimeout, 0, 24*time.Hour),
	}
	for i, s := range raw.Agents {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			v.failf(fmt.Sprintf("registry.agents[%d]", i), "%q is not a network (like \"10.0.0.0/24\" or \"2001:db8::/64\")", s)
		}
		r.Agents = append(r.Agents, p.Masked())
	}
	return r
}

func (v *validator) datapath(raw rawDatapath) Datapath {
	const most = 1000 * time.Hour
	return Datapath{
		Rung: v.rung("datapath.rung", raw.Rung), Links: raw.Links,
		Queues:      v.integer("datapath.queues", raw.Queues, 0, 256),
		FirstQueue:  uint16(v.integer("datapath.first_queue", raw.FirstQueue, 0, 65535-256)),
		QueueLength: uint32(v.integer("datapath.queue_length", raw.QueueLength, 64, 1<<20)),
		TunnelPort:  uint16(v.integer("datapath.tunnel_port", raw.TunnelPort, 1, 65535)),
		Flows:       v.integer("datapath.flows", raw.Flows, 1024, 1<<28),
		Timeouts: flow.Timeouts{
			TCP:    v.duration("datapath.timeouts.tcp", raw.Timeouts.TCP, time.Second, most),
			TCPSyn: v.duration("datapath.timeouts.tcp_syn", raw.Timeouts.TCPSyn, time.Second, most),
			TCPFin: v.duration("datapath.timeouts.tcp_fin", raw.Timeouts.TCPFin, time.Second, most),
			UDP:    v.duration("datapath.timeouts.udp", raw.Timeouts.UDP, time.Second, most),
		},
	}
}

func (v *validator) policy(p Policy) Policy {
	v.integer("policy.max_module_bytes", p.MaxModuleBytes, 8, 1<<30)
	v.integer("policy.max_memory_pages", p.MaxMemoryPages, 1, 1<<16)
	v.integer("policy.max_depth", p.MaxDepth, 1, 1<<16)
	v.integer("policy.log_bytes", p.LogBytes, 0, 1<<30)
	v.integer("policy.pick_fuel", int(p.PickFuel), 1, 1<<40)
	v.integer("policy.call_fuel", int(p.CallFuel), 1, 1<<40)
	v.integer("policy.start_fuel", int(p.StartFuel), 1, 1<<40)
	return p
}

var serviceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// policyJSON is a service's policy_config as its policy gets it.
func policyJSON(table map[string]any) ([]byte, error) {
	if len(table) == 0 {
		return nil, nil
	}
	return json.Marshal(table)
}
