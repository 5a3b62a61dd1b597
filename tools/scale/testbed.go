package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/control"
	"github.com/caplance/caplance/core/fastpath"
	"github.com/caplance/caplance/e2e/fleet"
	"github.com/caplance/caplance/e2e/topology"
)

// testbed is a balancer and the host of its agents.
//
//	balancer 10.77.0.1 ── switch ── agents 10.77.0.2, with all data IPs
type testbed struct {
	dir    string
	net    *topology.Net
	lb     *topology.Host
	agents *topology.Host
	fleet  *fleet.Fleet
	server *topology.Process
	key    *auth.KeyPair // of all agents

	lookups uint32 // the kernel's map of the lookup tables
}

// newTestbed builds the network for so many agents.
func newTestbed(c shape) (_ *testbed, err error) {
	b := &testbed{key: auth.NewKeyPair()}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.dir, err = os.MkdirTemp("", "caplance-scale"); err != nil {
		return nil, err
	}
	if b.net, err = topology.New("scale"); err != nil {
		return nil, err
	}
	sw, err := b.net.Switch("sw")
	if err != nil {
		return nil, err
	}
	if b.lb, err = b.net.Host("lb"); err != nil {
		return nil, err
	}
	if b.agents, err = b.net.Host("agents"); err != nil {
		return nil, err
	}
	if err = errors.Join(sw.Attach(b.lb, "eth0", lbAddr), sw.Attach(b.agents, "eth0", agentsAddr)); err != nil {
		return nil, err
	}
	if err = b.lb.Route(farNet, agentsAddr.Addr()); err != nil {
		return nil, err
	}
	if err = auth.NewKeyPair().Save(filepath.Join(b.dir, "lb.key")); err != nil {
		return nil, err
	}
	b.fleet, err = fleet.New(b.agents, fleet.Options{
		Balancer: netip.AddrPortFrom(lbAddr.Addr(), 1338), Agents: c.backends + 1, Addr: dataIP, Prefix: "b-", Secure: b.secure,
	})
	return b, err
}

// secure proves the agents' key, and takes whatever the balancer's is.
func (b *testbed) secure(conn net.Conn) (net.Conn, error) {
	proven := auth.Client(conn, b.key, func(*auth.Identity) error { return nil })
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	_, err := proven.Prove(ctx)
	return proven, err
}

func (b *testbed) socket() string           { return filepath.Join(b.dir, "lb.sock") }
func (b *testbed) control() *control.Client { return control.Dial(b.socket()) }

// start starts the balancer and waits until it balances.
func (b *testbed) start(ctx context.Context, bin string, c shape) (err error) {
	file := filepath.Join(b.dir, "server.toml")
	if err := os.WriteFile(file, []byte(c.config(b.dir, b.key.Public())), 0o644); err != nil {
		return err
	}
	if b.server, err = b.lb.Start(filepath.Join(bin, "caplance"), "server", "-c", file); err != nil {
		return err
	}
	return b.await(ctx, func() error {
		r, err := b.control().Status(ctx)
		if err != nil {
			return err
		}
		for _, t := range r.Targets {
			if t.State != "ok" {
				return fmt.Errorf("target %s is %s: %s", t.Name, t.State, t.Error)
			}
		}
		return nil
	})
}

// await asks until ok returns nil, the balancer ends, or ctx does.
func (b *testbed) await(ctx context.Context, ok func() error) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return nil
		}
		select {
		case <-b.server.Done():
			return fmt.Errorf("balancer ended: %w\n%s", b.server.Err(), b.server.Output())
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// close ends everything.
func (b *testbed) close() error {
	var errs []error
	if b.fleet != nil {
		b.fleet.Close()
	}
	if b.server != nil {
		if err := b.server.Stop(20 * time.Second); err != nil {
			errs = append(errs, fmt.Errorf("balancer: %w\n%s", err, tail(b.server.Output())))
		}
	}
	if b.net != nil {
		errs = append(errs, b.net.Close())
	}
	return errors.Join(append(errs, fastpath.Unload(filepath.Join(b.dir, "lb")), os.RemoveAll(b.dir))...)
}

// tail returns the end of a log.
func tail(log string) string { return log[max(0, len(log)-4000):] }
