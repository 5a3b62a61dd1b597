package config

import "github.com/caplance/caplance/core"

// rawServer mirrors the file.
type rawServer struct {
	StateDir           string       `toml:"state_dir"`
	Log                Log          `toml:"log"`
	Sandbox            Sandbox      `toml:"sandbox"`
	Registry           rawRegistry  `toml:"registry"`
	Datapath           rawDatapath  `toml:"datapath"`
	Policy             Policy       `toml:"policy"`
	Control            string       `toml:"control"`
	Group              string       `toml:"control_group"`
	Read               string       `toml:"control_read_group"`
	Clients            int          `toml:"control_clients"`
	Metrics            string       `toml:"metrics"`
	MetricsConnections int          `toml:"metrics_connections"`
	MetricsPprof       bool         `toml:"metrics_pprof"`
	Service            []rawService `toml:"service"`
	Agent              []rawAgent   `toml:"agent"`
}

type rawRegistry struct {
	Listen        string    `toml:"listen"`
	Agents        []string  `toml:"agents"`
	Lease         string    `toml:"lease" is:"duration"`
	Grace         string    `toml:"grace" is:"duration"`
	PlainLease    string    `toml:"plain_lease" is:"duration"`
	Rejoin        string    `toml:"rejoin" is:"duration"`
	WriteTimeout  string    `toml:"write_timeout" is:"duration"`
	SanityTimeout string    `toml:"sanity_timeout" is:"duration"`
	Limits        rawLimits `toml:"limits"`
	DrainTimeout  string    `toml:"drain_timeout" is:"duration"`
	Allow         []string  `toml:"allow"`
	Auth          string    `toml:"auth"`
	Key           string    `toml:"key"`
	CAFile        string    `toml:"ca_file"`
	CertFile      string    `toml:"cert_file"`
	KeyFile       string    `toml:"key_file"`
	Enrolled      string    `toml:"enrolled"`
}

type rawLimits struct {
	Connections int    `toml:"connections"`
	PerAddress  int    `toml:"connections_per_address"`
	Handshake   string `toml:"handshake" is:"duration"`
	Backends    int    `toml:"backends"`
	Lines       int    `toml:"lines"`
	Changes     int    `toml:"changes"`
	Records     int    `toml:"records"`
	Sanity      int    `toml:"sanity"`
}

type rawAgent struct {
	Name      string   `toml:"name"`
	Keys      []string `toml:"keys"`
	SAN       []string `toml:"san"`
	Allow     []string `toml:"allow"`
	Services  []string `toml:"services"`
	MaxWeight *int64   `toml:"max_weight"`
	MaxNames  *int64   `toml:"max_names"`
}

type rawDatapath struct {
	Type        string      `toml:"type"`
	Links       []string    `toml:"links"`
	Queues      int         `toml:"queues"`
	FirstQueue  int         `toml:"first_queue"`
	QueueLength int         `toml:"queue_length"`
	TunnelPort  int         `toml:"tunnel_port"`
	Flows       int         `toml:"flows"`
	MaxBackends int         `toml:"max_backends"`
	HostAccess  string      `toml:"vip_host_access"`
	Timeouts    rawTimeouts `toml:"timeouts"`
}

type rawTimeouts struct {
	TCP           string `toml:"tcp" is:"duration"`
	TCPSyn        string `toml:"tcp_syn" is:"duration"`
	TCPFin        string `toml:"tcp_fin" is:"duration"`
	TCPHalfClosed string `toml:"tcp_half_closed" is:"duration"`
	UDP           string `toml:"udp" is:"duration"`
}

// own returns the timeouts as a service may have them.
func (t *rawTimeouts) own() rawOwnTimeouts {
	return rawOwnTimeouts{&t.TCP, &t.TCPSyn, &t.TCPFin, &t.TCPHalfClosed, &t.UDP}
}

// rawOwnTimeouts are those of a [[service]]; nil: as [datapath.timeouts] says.
type rawOwnTimeouts struct {
	TCP           *string `toml:"tcp" is:"duration"`
	TCPSyn        *string `toml:"tcp_syn" is:"duration"`
	TCPFin        *string `toml:"tcp_fin" is:"duration"`
	TCPHalfClosed *string `toml:"tcp_half_closed" is:"duration"`
	UDP           *string `toml:"udp" is:"duration"`
}

// defaultServer returns what the file leaves out.
func defaultServer() rawServer {
	return rawServer{
		StateDir: "/run/caplance",
		Log:      DefaultLog(),
		Sandbox:  DefaultSandbox(),
		Registry: rawRegistry{
			Listen: "0.0.0.0:1338", Lease: "3s", Grace: "1s", PlainLease: "30s", Rejoin: "30s", WriteTimeout: "10s", SanityTimeout: "5s", Limits: rawLimits{Connections: 4096, PerAddress: 512, Handshake: "5s", Backends: 4096, Lines: 100, Changes: 5, Records: 100_000, Sanity: 1000}, DrainTimeout: "60s",
			Auth: string(AuthKeys), Key: "/etc/caplance/balancer.key", Enrolled: "/var/lib/caplance/agents.toml",
		},
		Datapath: rawDatapath{
			Type: string(core.Auto), FirstQueue: 1337, QueueLength: 8192, TunnelPort: 1337, Flows: 1 << 20, MaxBackends: 1 << 14, HostAccess: core.HostOwn.String(),
			Timeouts: rawTimeouts{TCP: "15m", TCPSyn: "60s", TCPFin: "60s", TCPHalfClosed: "15m", UDP: "2m"},
		},
		Policy: Policy{
			MaxModuleBytes: 16 << 20, MaxMemoryPages: 256, MaxDepth: 1024, LogBytes: 4096,
			PickFuel: 800_000, CallFuel: 300_000_000, StartFuel: 300_000_000,
		},
		Control: "/var/run/caplance-server.sock", Clients: DefaultClients, MetricsConnections: 16,
	}
}
