// Package cluster is a whole Caplance installation in network namespaces, as
// the end-to-end tests, the demo and the benchmarks use it: the built binaries
// run in their own hosts, the backends serve real TCP, HTTP and UDP.
//
//	client 10.77.0.100 ─┐        ┌─ b1 10.77.0.11
//	                    switch ──┼─ b2 10.77.0.12
//	balancer 10.77.0.1 ─┘        └─ b3 10.77.0.13 …
//	VIPs 10.77.0.200 and fd77::200, answered for by the balancer
//
// With Routed the backends are behind a router:
//
//	client 10.77.0.100 ─┐                                  ┌─ b1 10.78.0.11
//	                    switch ── .254 router .254 ── switch ── b2 10.78.0.12
//	balancer 10.77.0.1 ─┘                                  └─ b3 10.78.0.13 …
package cluster

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/rpc"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/auth/authtest"
	"github.com/caplance/caplance/core/control"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/core/nettest/slow"
	"github.com/caplance/caplance/e2e/topology"
)

// The VIPs of every cluster, and the ports served behind them.
var (
	VIP4 = netip.MustParseAddr("10.77.0.200")
	VIP6 = netip.MustParseAddr("fd77::200")
)

// Ports of the services web4, web6 (TCP) and echo4, echo6 (UDP).
const (
	HTTPPort = 80 // web: HTTP, see backend.go
	LinePort = 7  // web: says its name, then echoes
	UDPPort  = 53 // echo: answers with its name and the datagram
)

// Options are what a cluster is made with.
type Options struct {
	Name     string // of its namespaces, when there are several clusters in a process; default capl
	Bin      string // directory of the built binaries
	Dir      string // for configuration, sockets, state
	Backends int
	Policy   string // of every service; default round-robin
	DataV6   bool   // tunnels over IPv6
	Type     string // datapath type, of balancer and agents; default $CAPLANCE_TYPE, else auto
	Agents   string // the agents' datapath type, where it is another
	Server   string // more TOML for the server, before its services
	Datapath string // more TOML for the server's [datapath]
	Timeout  string // lease, as slow scales it; default 2s
	Mode     string // of every service; default $CAPLANCE_MODE, else the product's
	Keyless  bool   // whoever is on the network may register
	CA       bool   // agents and balancer have certificates, see Certify

	MTU           int  // of every link, bytes; default 1500
	Routed        bool // a router between the backends and the others
	PrivateMounts bool // the balancer has a mount namespace of its own

	Under []string // a command that balancer and agents are started by

	Upper topology.Kind // of a link above eth0 that has the addresses; "": eth0 has them
}

// Cluster is a running installation.
type Cluster struct {
	Options
	Net      *topology.Net
	Switch   *topology.Switch
	LB       *topology.Host
	Client   *topology.Host
	Backends []*Backend
	Server   *topology.Process

	// Authorities are those that balancer and agents trust, with CA; the last one signs
	// what Certify writes.
	Authorities []*authtest.Authority

	front, back segment   // of the client and the balancer, of the backends
	passing     io.Closer // program at the balancer's port, nil without XDP
	serverFile  string
	key         auth.PublicKey // the balancer's
}

// New builds the network and starts the backends' own services, but neither
// balancer nor agents.
func New(o Options) (c *Cluster, err error) {
	if o.Policy == "" {
		o.Policy = "round-robin"
	}
	if o.Timeout, err = scaled(cmp.Or(o.Timeout, "2s")); err != nil {
		return nil, err
	}
	o.Type = o.datapathType()
	o.Mode = cmp.Or(o.Mode, os.Getenv("CAPLANCE_MODE"))
	c = &Cluster{Options: o, serverFile: filepath.Join(o.Dir, "server.toml")}
	if err = c.network(); err == nil {
		err = c.keys()
	}
	if err == nil {
		err = c.Rewrite()
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// scaled returns a duration as it is on this machine.
func scaled(duration string) (string, error) {
	d, err := time.ParseDuration(duration)
	return slow.Time(d).String(), err
}

// Rewrite writes the balancer's configuration from the options.
func (c *Cluster) Rewrite() error { return c.WriteServerConfig(c.ServerConfig("")) }

// ServerFile returns the balancer's configuration file.
func (c *Cluster) ServerFile() string { return c.serverFile }

// ServerConfig returns the balancer's configuration; perService is more TOML for
// each of its services.
func (c *Cluster) ServerConfig(perService string) string {
	return fmt.Sprintf(`state_dir = %q
control = %q
%s
[log]
level = "debug"
[datapath]
type = %q
%s
[registry]
%s
listen = "[::]:1338"
agents = [%s]
%s
sanity_timeout = %q
drain_timeout = "30s"
%s`, filepath.Join(c.Dir, "lb"), c.ServerSocket(), c.Options.Server, c.Type, c.Datapath, c.auth(), c.agents(), c.lease(), slow.Time(2*time.Second), c.Services(c.Policy, perService)+c.identities())
}

// lease returns the TOML for how long agents may be silent: Timeout, with three
// heartbeats in 0.9 s of it.
func (c *Cluster) lease() string {
	all, _ := time.ParseDuration(c.Timeout)
	lease := min(all/2, slow.Time(900*time.Millisecond))
	return fmt.Sprintf("\nlease = %q\ngrace = %q\nplain_lease = %q\nrejoin = %[3]q", lease, all-lease, c.Timeout)
}

// keys makes a key for the balancer and each backend.
func (c *Cluster) keys() error {
	pair := auth.NewKeyPair()
	c.key = pair.Public()
	err := pair.Save(c.keyFile())
	for _, b := range c.Backends {
		err = errors.Join(err, b.NewKey())
	}
	return err
}

// The names in certificates: of the balancer, and what an agent's ends in.
const (
	BalancerName = "lb.example.org"
	AgentDomain  = ".agents.example.org"
)

// Certify writes certificates for balancer and backends, of the last authority, where
// they have them, and which authorities there are.
func (c *Cluster) Certify() error {
	last := c.Authorities[len(c.Authorities)-1]
	_, err := last.Issue(BalancerName, authtest.Only(x509.ExtKeyUsageServerAuth)).Write(c.Dir, "lb", c.Authorities...)
	for _, b := range c.Backends {
		_, err2 := last.Issue(b.Name+AgentDomain, authtest.Only(x509.ExtKeyUsageClientAuth)).Write(c.Dir, b.Name, c.Authorities...)
		err = errors.Join(err, err2)
	}
	return err
}

// certificate returns the TOML of the files that Certify writes for somebody.
func (c *Cluster) certificate(name string) string {
	file := func(suffix string) string { return filepath.Join(c.Dir, name+suffix) }
	return fmt.Sprintf("ca_file = %q\ncert_file = %q\nkey_file = %q", file(".ca.pem"), file(".pem"), file(".key.pem"))
}

func (c *Cluster) keyFile() string { return filepath.Join(c.Dir, "lb.key") }

// anywhere is where data IPs may be: tests give backends others than their own.
const anywhere = `"0.0.0.0/0", "::/0"`

// auth returns the lines of [registry] about who agents are.
func (c *Cluster) auth() (toml string) {
	if c.Keyless {
		return fmt.Sprintf("auth = \"none\"\nallow = [%s]\nenrolled = %q", anywhere, c.enrolled())
	}
	if c.CA {
		return fmt.Sprintf("auth = \"ca\"\n%s\nenrolled = %q", c.certificate("lb"), c.enrolled())
	}
	return fmt.Sprintf("auth = \"keys\"\nkey = %q\nenrolled = %q", c.keyFile(), c.enrolled())
}

// enrolled is the file of the agents that joined.
func (c *Cluster) enrolled() string { return filepath.Join(c.Dir, "enrolled.toml") }

// identities returns the TOML of the agents that the balancer knows.
func (c *Cluster) identities() (toml string) {
	if c.Keyless {
		return ""
	}
	if c.CA {
		return fmt.Sprintf("[[agent]]\nname = \"*\"\nsan = [%q]\nallow = [%s]\n", "*"+AgentDomain, anywhere)
	}
	for _, b := range c.Backends {
		if len(b.Keys) == 0 {
			continue // it is to join by a token
		}
		toml += fmt.Sprintf("[[agent]]\nname = %q\nkeys = [", b.Name)
		for _, k := range b.Keys {
			toml += fmt.Sprintf("%q, ", k)
		}
		toml += "]\nallow = [" + anywhere + "]\n"
	}
	return toml
}

// agents returns the TOML of the networks that agents may register from: the
// default, which is those that the balancer is in, does where there is no router.
func (c *Cluster) agents() (toml string) {
	if c.Routed || c.Keyless {
		return c.networks()
	}
	return ""
}

// networks returns the TOML of those that the backends are in.
func (c *Cluster) networks() (toml string) {
	for _, n := range c.back.networks() {
		toml += fmt.Sprintf("%q, ", n)
	}
	return toml
}

// Services returns the TOML of the cluster's services under one policy, with more
// lines for each.
func (c *Cluster) Services(policy string, more ...string) (toml string) {
	if c.Mode != "" {
		more = append([]string{fmt.Sprintf("mode = %q", c.Mode)}, more...) // before any table
	}
	for _, s := range []struct {
		name, proto string
		vip         netip.Addr
		ports       string
	}{
		{"web4", "tcp", VIP4, fmt.Sprintf("%d, %d", HTTPPort, LinePort)},
		{"echo4", "udp", VIP4, fmt.Sprint(UDPPort)},
		{"web6", "tcp", VIP6, fmt.Sprintf("%d, %d", HTTPPort, LinePort)},
		{"echo6", "udp", VIP6, fmt.Sprint(UDPPort)},
	} {
		toml += fmt.Sprintf("[[service]]\nname = %q\nvip = %q\nprotocol = %q\nports = [%s]\npolicy = %q\n%s\n", s.name, s.vip, s.proto, s.ports, policy, strings.Join(more, "\n"))
	}
	return toml
}

// WriteServerConfig replaces the balancer's configuration file.
func (c *Cluster) WriteServerConfig(toml string) error {
	return os.WriteFile(c.serverFile, []byte(toml), 0o644)
}

// ServerSocket returns the balancer's control socket.
func (c *Cluster) ServerSocket() string { return filepath.Join(c.Dir, "lb.sock") }

// Control talks to the balancer.
func (c *Cluster) Control() *control.Client { return control.Dial(c.ServerSocket()) }

// StartServer starts the balancer and waits until it balances.
func (c *Cluster) StartServer(ctx context.Context) (err error) {
	start := c.LB.Start
	if c.PrivateMounts {
		start = c.LB.StartPrivate
	}
	command := append(slices.Clone(c.Under), filepath.Join(c.Bin, "caplance"), "server", "-c", c.serverFile)
	c.Server, err = start(command[0], command[1:]...)
	if err != nil {
		return err
	}
	return Await(ctx, "the balancer's start", func() error {
		select {
		case <-c.Server.Done():
			return Final(fmt.Errorf("balancer ended: %w\n%s", c.Server.Err(), c.Server.Output()))
		default:
		}
		_, err := c.Control().Stats(ctx)
		return err
	})
}

// StartAgents starts every backend's agent and waits until all are active.
func (c *Cluster) StartAgents(ctx context.Context) error {
	for _, b := range c.Backends {
		if err := b.StartAgent(ctx); err != nil {
			return err
		}
	}
	return c.AwaitActive(ctx, len(c.Backends))
}

// AwaitActive waits until n backends are active in every service.
func (c *Cluster) AwaitActive(ctx context.Context, n int) error {
	return Await(ctx, fmt.Sprintf("%d active backends", n), func() error {
		rows, err := c.Control().Services(ctx)
		if err != nil {
			return err
		}
		for _, s := range rows {
			if s.Eligible != n {
				return fmt.Errorf("service %s has %d eligible backends", s.Name, s.Eligible)
			}
		}
		return nil
	})
}

// finalError ends an Await at once.
type finalError struct{ error }

// Final marks an error as one that waiting will not cure.
func Final(err error) error { return finalError{err} }

// Await calls ok until it returns nil, for at most 15 s, which slow scales, or until ctx ends.
func Await(ctx context.Context, what string, ok func() error) error {
	ctx, cancel := context.WithTimeout(ctx, slow.Time(15*time.Second))
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		var final finalError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &final):
			return fmt.Errorf("waiting for %s: %w", what, final.error)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for %s: %w", what, err)
		case <-tick.C:
		}
	}
}

// StopServer stops the balancer and waits.
func (c *Cluster) StopServer() error {
	if c.Server == nil {
		return nil
	}
	if err := c.Server.Stop(5 * time.Second); err != nil {
		return fmt.Errorf("balancer: %w\n%s", err, c.Server.Output())
	}
	return nil
}

// Close ends everything and removes the network.
func (c *Cluster) Close() error {
	var errs []error
	for _, b := range c.Backends {
		b.close()
	}
	if c.Server != nil {
		c.Server.Signal(os.Kill)
		<-c.Server.Done()
	}
	if c.passing != nil {
		errs = append(errs, c.passing.Close())
	}
	if c.Net != nil {
		errs = append(errs, c.Net.Close())
	}
	errs = append(errs, fastpath.Unload(filepath.Join(c.Dir, "lb"))) // of a balancer that was killed
	for _, b := range c.Backends {
		errs = append(errs, fastpath.UnloadReceiver(filepath.Join(c.Dir, b.Name), "")) // of a killed agent
	}
	return errors.Join(errs...)
}

// call asks the agent at a control socket.
func call(socket, method, arg string) (reply string, err error) {
	conn, err := rpc.DialHTTP("unix", socket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return reply, conn.Call("Client."+method, &arg, &reply)
}
