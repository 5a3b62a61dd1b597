package agent

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/registry"
)

// Config is an agent's valid configuration. agent.example.toml explains it.
type Config struct {
	Name     string
	Server   string     // host:port of the registry
	DataIP   netip.Addr // invalid: the local address towards the server
	Port     uint16     // of the tunnel, UDP
	Rung     config.Rung
	Mode     core.Mode // 0: as the balancer's services say
	Services []string  // nil joins every one
	Weight   uint32
	MaxFlows uint32 // 0: no limit
	Priority uint32
	Zone     uint16
	Label    uint64
	VIPs     []netip.Addr // for balancers that do not say; others' answer wins

	Heartbeat    time.Duration
	ReadTimeout  time.Duration
	WriteTimeout time.Duration

	Check         *url.URL // nil: always healthy
	CheckInterval time.Duration
	CheckTimeout  time.Duration

	Drain       bool          // at stop, before DEREGISTER
	StopTimeout time.Duration // for the drain

	Control  string // path of the unix socket
	StateDir string
	Log      config.Log
}

// raw mirrors the file.
type raw struct {
	Name          string     `toml:"name"`
	Server        string     `toml:"server"`
	DataIP        string     `toml:"data_ip"`
	TunnelPort    int64      `toml:"tunnel_port"`
	Rung          string     `toml:"rung"`
	Mode          string     `toml:"mode"`
	Services      []string   `toml:"services"`
	Weight        int64      `toml:"weight"`
	MaxFlows      int64      `toml:"max_flows"`
	Priority      int64      `toml:"priority"`
	Zone          int64      `toml:"zone"`
	Label         int64      `toml:"label"`
	VIPs          []string   `toml:"vips"`
	Heartbeat     string     `toml:"heartbeat"`
	ReadTimeout   string     `toml:"read_timeout"`
	WriteTimeout  string     `toml:"write_timeout"`
	Check         string     `toml:"check"`
	CheckInterval string     `toml:"check_interval"`
	CheckTimeout  string     `toml:"check_timeout"`
	Stop          string     `toml:"stop"`
	StopTimeout   string     `toml:"stop_timeout"`
	Control       string     `toml:"control"`
	StateDir      string     `toml:"state_dir"`
	Log           config.Log `toml:"log"`
}

// defaults holds for every key that the file leaves out.
func defaults() raw {
	return raw{
		TunnelPort: 1337, Rung: string(config.Auto), Weight: registry.DefaultWeight,
		Heartbeat: "20s", ReadTimeout: "30s", WriteTimeout: "10s",
		CheckInterval: "5s", CheckTimeout: "2s",
		Stop: "drain", StopTimeout: "30s",
		Control: "/var/run/caplance.sock", StateDir: "/run/caplance",
		Log: config.DefaultLog(),
	}
}

// Load reads and validates agent.toml. It reports all that is wrong at once,
// each with file, line and key, and touches nothing.
func Load(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	return parse(path, data)
}

func parse(path string, data []byte) (Config, error) {
	r := defaults()
	doc, err := config.Decode(path, data, &r)
	if err != nil {
		return Config{}, err
	}
	v := validator{doc: doc}
	c := Config{
		Name: v.name(r.Name), Server: v.server(r.Server), DataIP: v.addr("data_ip", r.DataIP),
		Port:     uint16(v.between("tunnel_port", r.TunnelPort, 1, 65535)),
		Weight:   uint32(v.between("weight", r.Weight, 0, registry.MaxWeight)),
		MaxFlows: uint32(v.between("max_flows", r.MaxFlows, 0, math.MaxUint32)),
		Priority: uint32(v.between("priority", r.Priority, 0, math.MaxUint32)),
		Zone:     uint16(v.between("zone", r.Zone, 0, math.MaxUint16)),
		Label:    uint64(v.between("label", r.Label, 0, math.MaxInt64)),
		Services: v.names("services", r.Services), VIPs: v.addrs("vips", r.VIPs),
		Heartbeat:     v.duration("heartbeat", r.Heartbeat),
		ReadTimeout:   v.duration("read_timeout", r.ReadTimeout),
		WriteTimeout:  v.duration("write_timeout", r.WriteTimeout),
		Check:         v.check(r.Check),
		CheckInterval: v.duration("check_interval", r.CheckInterval),
		CheckTimeout:  v.duration("check_timeout", r.CheckTimeout),
		Drain:         v.stop(r.Stop), StopTimeout: v.duration("stop_timeout", r.StopTimeout),
		Control: v.path("control", r.Control), StateDir: v.path("state_dir", r.StateDir), Log: r.Log,
	}
	if c.Rung, err = config.ParseRung(r.Rung); err != nil {
		v.failf("rung", "%w", err)
	} else if c.Rung == config.XDP {
		v.failf("rung", "xdp is for balancers; an agent has auto, tc, userspace")
	}
	if r.Mode != "" {
		if c.Mode, err = core.ParseMode(r.Mode); err != nil {
			v.failf("mode", "%w", err)
		}
	}
	if c.ReadTimeout <= c.Heartbeat {
		v.failf("read_timeout", "%s must be longer than the heartbeat (%s): the balancer only speaks when spoken to", c.ReadTimeout, c.Heartbeat)
	}
	if err := errors.Join(append(v.errs, r.Log.Check(doc, "log"))...); err != nil {
		return Config{}, err
	}
	return c, nil
}

// server adds the registry's port where it is left out.
func (v *validator) server(s string) string {
	const port = "1338"
	if s == "" {
		v.failf("server", "the balancer's registry is missing (like \"10.0.0.1:%s\")", port)
		return ""
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return net.JoinHostPort(a.String(), port)
	}
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		host, p = s, port
	}
	if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 || host == "" {
		v.failf("server", "%q is not host:port", s)
	}
	return net.JoinHostPort(host, p)
}
