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
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/rpc"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/caplance/caplance/core/control"
	"github.com/caplance/caplance/core/fastpath"
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
	Rung     string // of balancer and agents; default $CAPLANCE_RUNG, else auto
	Agents   string // the agents' rung, where it is another
	Server   string // more TOML for the server, before its services
	Datapath string // more TOML for the server's [datapath]
	Timeout  string // lease; default 2s
	Mode     string // of every service; default $CAPLANCE_MODE, else the product's

	MTU    int           // of every link, bytes; default 1500
	Routed bool          // a router between the backends and the others
	Upper  topology.Kind // of a link above eth0 that has the addresses; "": eth0 has them
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

	front, back segment   // of the client and the balancer, of the backends
	passing     io.Closer // program at the balancer's port, nil without XDP
	serverFile  string
}

// New builds the network and starts the backends' own services, but neither
// balancer nor agents.
func New(o Options) (c *Cluster, err error) {
	if o.Policy == "" {
		o.Policy = "round-robin"
	}
	if o.Timeout == "" {
		o.Timeout = "2s"
	}
	o.Rung = o.rung()
	o.Mode = cmp.Or(o.Mode, os.Getenv("CAPLANCE_MODE"))
	c = &Cluster{Options: o, serverFile: filepath.Join(o.Dir, "server.toml")}
	if err = c.network(); err == nil {
		err = c.Rewrite()
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Rewrite writes the balancer's configuration from the options.
func (c *Cluster) Rewrite() error { return c.WriteServerConfig(c.ServerConfig("")) }

// ServerFile is the balancer's configuration file.
func (c *Cluster) ServerFile() string { return c.serverFile }

// ServerConfig is the balancer's configuration; perService is more TOML for
// each of its services.
func (c *Cluster) ServerConfig(perService string) string {
	return fmt.Sprintf(`state_dir = %q
control = %q
%s
[log]
level = "debug"
[datapath]
rung = %q
%s
[registry]
listen = "[::]:1338"
agents = [%s]
read_timeout = %q
sanity_timeout = "2s"
drain_timeout = "30s"
%s`, filepath.Join(c.Dir, "lb"), c.ServerSocket(), c.Options.Server, c.Rung, c.Datapath, c.agents(), c.Timeout, c.Services(c.Policy, perService))
}

// agents is the TOML of the networks that agents may register from: the
// default, which is those that the balancer is in, does where there is no router.
func (c *Cluster) agents() (toml string) {
	if !c.Routed {
		return ""
	}
	for _, n := range c.back.networks() {
		toml += fmt.Sprintf("%q, ", n)
	}
	return toml
}

// Services is the TOML of the cluster's services under one policy, with more
// lines for each.
func (c *Cluster) Services(policy string, more ...string) (toml string) {
	if c.Mode != "" {
		more = append(more, fmt.Sprintf("mode = %q", c.Mode))
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

// ServerSocket is the balancer's control socket.
func (c *Cluster) ServerSocket() string { return filepath.Join(c.Dir, "lb.sock") }

// Control talks to the balancer.
func (c *Cluster) Control() *control.Client { return control.Dial(c.ServerSocket()) }

// StartServer starts the balancer and waits until it balances.
func (c *Cluster) StartServer(ctx context.Context) (err error) {
	c.Server, err = c.LB.Start(filepath.Join(c.Bin, "caplance"), "server", "-c", c.serverFile)
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

// Await calls ok until it returns nil, for at most 15 s or until ctx ends.
func Await(ctx context.Context, what string, ok func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
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
