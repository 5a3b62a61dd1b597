package agent

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/probe"
	"github.com/caplance/caplance/core/protocol"
)

// Config is an agent's valid configuration. agent.example.toml explains it.
type Config struct {
	Name        string
	Server      string     // host:port of the registry
	DataIP      netip.Addr // invalid: the local address towards the server
	Port        uint16     // of the tunnel, UDP
	Type        core.DatapathType
	Mode        core.Mode // 0: as the balancer's services say
	Services    []string  // nil joins every one
	Weight      uint32
	MaxFlows    uint32 // 0: no limit
	Priority    uint32
	Zone        uint16
	Label       uint64
	VIPNetworks []netip.Prefix // of VIPs that balancers may name; none: all
	VIPs        []netip.Addr   // for balancers that do not say; others' answer wins

	Key           string           // file, "": the agent has no key
	BalancerKeys  []auth.PublicKey // with Key: balancers that it speaks to
	Certificate   auth.Files       // zero: it has none either
	BalancerNames []auth.Pattern   // with Certificate: balancers that it speaks to
	Own           auth.Credentials // what is in these files; nil: the agent proves nothing

	ReadTimeout  time.Duration // for an answer
	WriteTimeout time.Duration

	Checks []probe.Spec

	Drain       bool          // at stop, before DEREGISTER
	StopTimeout time.Duration // for the drain

	Control                        string // path of the unix socket
	ControlGroup, ControlReadGroup string // who may do all there, and who may ask; "" for root alone
	ControlClients                 int    // connections there at once
	StateDir                       string
	Log                            config.Log
	Sandbox                        config.Sandbox

	doc *config.Document // where the keys stand; nil when it was not read from a file
}

// File returns the file that it was read from.
func (c *Config) File() string { return c.doc.Path() }

// raw mirrors the file.
type raw struct {
	Name          string         `toml:"name"`
	Server        string         `toml:"server"`
	DataIP        string         `toml:"data_ip"`
	TunnelPort    int64          `toml:"tunnel_port"`
	Type          string         `toml:"type"`
	Mode          string         `toml:"mode"`
	Services      []string       `toml:"services"`
	Weight        int64          `toml:"weight"`
	MaxFlows      int64          `toml:"max_flows"`
	Priority      int64          `toml:"priority"`
	Zone          int64          `toml:"zone"`
	Label         int64          `toml:"label"`
	VIPs          []string       `toml:"vips"`
	VIPNetworks   []string       `toml:"vip_networks"`
	Key           string         `toml:"key"`
	BalancerKeys  []string       `toml:"balancer_keys"`
	CAFile        string         `toml:"ca_file"`
	CertFile      string         `toml:"cert_file"`
	KeyFile       string         `toml:"key_file"`
	BalancerNames []string       `toml:"balancer_names"`
	ReadTimeout   string         `toml:"read_timeout" is:"duration"`
	WriteTimeout  string         `toml:"write_timeout" is:"duration"`
	Check         []probe.Table  `toml:"check"`
	Stop          string         `toml:"stop"`
	StopTimeout   string         `toml:"stop_timeout" is:"duration"`
	Control       string         `toml:"control"`
	Group         string         `toml:"control_group"`
	Read          string         `toml:"control_read_group"`
	Clients       int64          `toml:"control_clients"`
	StateDir      string         `toml:"state_dir"`
	Log           config.Log     `toml:"log"`
	Sandbox       config.Sandbox `toml:"sandbox"`
}

// defaults holds for every key that the file leaves out.
func defaults() raw {
	return raw{
		TunnelPort: 1337, Type: string(core.Auto), Weight: protocol.DefaultWeight,
		ReadTimeout: "10s", WriteTimeout: "10s",
		Stop: "drain", StopTimeout: "30s",
		Control: "/var/run/caplance.sock", Clients: config.DefaultClients, StateDir: "/run/caplance",
		Log: config.DefaultLog(), Sandbox: config.DefaultSandbox(),
	}
}

// Load reads and validates agent.toml, and reads the key or the certificate. It reports
// all that is wrong at once, each with file, line and key, and touches nothing.
func Load(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	c, err := Parse(path, data)
	if err != nil {
		return c, err
	}
	if err := c.load(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// load reads what the agent proves itself by.
func (c *Config) load() error {
	switch {
	case c.Key != "":
		pair, err := auth.LoadKeyPair(c.Key)
		if err != nil {
			return c.doc.Errorf("key", "%w", err)
		}
		c.Own = pair
	case c.Certificate.Certificate != "":
		cert, err := auth.LoadCertificate(c.Certificate, x509.ExtKeyUsageClientAuth)
		var file *auth.FileError
		if errors.As(err, &file) {
			return c.doc.Errorf(file.Key, "%w", file.Err)
		}
		if cert.Identity().In(nil, c.BalancerNames) {
			return c.doc.Errorf("balancer_names", "certificate in cert_file has such a name itself: it would be a balancer, too")
		}
		c.Own = cert
	}
	return nil
}

// Parse validates the content of agent.toml; path is for messages. Own stays nil.
func Parse(path string, data []byte) (Config, error) {
	r := defaults()
	doc, err := config.Decode(path, data, &r)
	if err != nil {
		return Config{}, err
	}
	v := validator{doc: doc}
	c := Config{
		Name: v.name(r.Name), Server: v.server(r.Server), DataIP: v.dataIP(r.DataIP),
		Port:     uint16(v.between("tunnel_port", r.TunnelPort, 1, 65535)),
		Weight:   uint32(v.between("weight", r.Weight, 0, protocol.MaxWeight)),
		MaxFlows: uint32(v.between("max_flows", r.MaxFlows, 0, math.MaxUint32)),
		Priority: uint32(v.between("priority", r.Priority, 0, math.MaxUint32)),
		Zone:     uint16(v.between("zone", r.Zone, 0, math.MaxUint16)),
		Label:    uint64(v.between("label", r.Label, 0, math.MaxInt64)),
		Services: v.names("services", r.Services), VIPs: v.addrs("vips", r.VIPs), VIPNetworks: v.networks("vip_networks", r.VIPNetworks),
		Key: v.file("key", r.Key), BalancerKeys: v.keys(r.BalancerKeys), doc: doc,
		Certificate:   auth.Files{CA: v.file("ca_file", r.CAFile), Certificate: v.file("cert_file", r.CertFile), Key: v.file("key_file", r.KeyFile)},
		BalancerNames: v.patterns("balancer_names", r.BalancerNames),
		ReadTimeout:   v.duration("read_timeout", r.ReadTimeout),
		WriteTimeout:  v.duration("write_timeout", r.WriteTimeout),
		Checks:        v.checks(r.Check),
		Drain:         v.stop(r.Stop), StopTimeout: v.duration("stop_timeout", r.StopTimeout),
		ControlGroup: v.group("control_group", r.Group), ControlReadGroup: v.group("control_read_group", r.Read),
		ControlClients: int(v.between("control_clients", r.Clients, 1, config.MaxClients)),
		Control:        v.path("control", r.Control), StateDir: v.path("state_dir", r.StateDir), Log: r.Log, Sandbox: r.Sandbox,
	}
	if c.Type, err = core.ParseDatapathType(r.Type); err != nil {
		v.failf("type", "%w", err)
	} else if c.Type == core.XDP {
		v.failf("type", "xdp is for balancers; an agent has auto, tc, userspace")
	}
	if r.Mode != "" {
		if c.Mode, err = core.ParseMode(r.Mode); err != nil {
			v.failf("mode", "%w", err)
		}
	}
	switch {
	case c.Key != "" && len(r.BalancerKeys) == 0:
		v.failf("balancer_keys", "key is set, and so has to be the key of the balancer (caplance keygen -public FILE prints it there)")
	case c.Key == "" && len(r.BalancerKeys) > 0:
		v.failf("key", "balancer_keys is set, and so has to be the agent's own key (caplance keygen /etc/caplance/agent.key makes one)")
	}
	v.certificate(&c)
	v.distinct(&c)
	if err := errors.Join(append(v.errs, r.Log.Check(doc, "log"), r.Sandbox.Check(doc, "sandbox"))...); err != nil {
		return Config{}, err
	}
	return c, nil
}

// Show writes an agent's file as it is understood, as config.ShowServer does.
func Show(w io.Writer, path string, data []byte) error {
	if _, err := Parse(path, data); err != nil {
		return err
	}
	r := defaults()
	doc, err := config.Decode(path, data, &r)
	if err != nil {
		return err
	}
	return doc.Show(w, &r)
}
