package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/caplance/caplance/e2e/cluster"
	"github.com/caplance/caplance/e2e/topology"
	"golang.org/x/sys/unix"
)

// The backend's ports that every system leads to. Both take TCP, discardPort
// takes UDP, too.
const (
	echoPort    = 8007 // sends back what it gets, as RFC 862's
	discardPort = 8009 // swallows what it gets, as RFC 863's
)

// The addresses of package cluster.
var (
	clientAddr   = netip.MustParseAddr("10.77.0.100")
	balancerAddr = netip.MustParseAddr("10.77.0.1")
)

// testbed is the network of one system, the same for all: package cluster's, with
// one backend.
//
//	client ── switch ─┬─ balancer: the system
//	                  └─ backend: echo, sink and, for Caplance, an agent
type testbed struct {
	*cluster.Cluster
	system
	to      netip.Addr // where the client finds the backend's ports
	sink    *sink
	undo    []func()
	results map[string]*series
}

// skip is why a system is left out of the comparison.
type skip string

func (s skip) Error() string { return string(s) }

// newTestbed sets a system up in namespaces and a directory of the given name.
func newTestbed(ctx context.Context, s system, name, bin, dir string) (*testbed, error) {
	dir = filepath.Join(dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("directory of %s: %w", s.name, err)
	}
	kind := "tc"
	if s.xdp {
		kind = "xdp" // makes the network one for XDP, whatever is in it
	}
	c, err := cluster.New(cluster.Options{Name: "bench-" + name, Bin: bin, Dir: dir, Backends: 1, Type: kind})
	if err != nil {
		return nil, err
	}
	b := &testbed{Cluster: c, system: s, to: c.Backends[0].Data, results: map[string]*series{}}
	if err := b.prepare(ctx); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

// prepare starts the backend and the system, and waits until the one leads to
// the other.
func (b *testbed) prepare(ctx context.Context) error {
	if err := b.serve(); err != nil {
		return err
	}
	for _, h := range []*topology.Host{b.Client, b.LB} { // HAProxy and nginx are clients, too
		if err := manyConnections(h); err != nil {
			return err
		}
	}
	if b.setUp != nil {
		if err := b.setUp(ctx, b); err != nil {
			return err
		}
	}
	return cluster.Await(ctx, "the way to the backend", b.echoes)
}

// echoes reports whether the client gets an answer from the backend.
func (b *testbed) echoes() error {
	return b.Client.Do(func() error {
		fd, err := dial(unix.SOCK_STREAM, netip.AddrPortFrom(b.to, echoPort))
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = pingPong(context.Background(), fd, 0)
		return err
	})
}

// serve starts what the backend serves.
func (b *testbed) serve() error {
	e, err := newEcho(b.Backends[0].Host)
	if err != nil {
		return err
	}
	b.undo = append(b.undo, e.close)
	if b.sink, err = newSink(b.Backends[0].Host); err != nil {
		return err
	}
	b.undo = append(b.undo, b.sink.close)
	return nil
}

// manyConnections lets a host open tens of thousands of them a second: ports
// are used again while their last connection is in TIME_WAIT.
func manyConnections(h *topology.Host) error {
	return errors.Join(
		h.Sysctl("net.ipv4.ip_local_port_range", "1024 65535"),
		h.Sysctl("net.ipv4.tcp_tw_reuse", "1"))
}

func (b *testbed) close() error {
	for i := len(b.undo) - 1; i >= 0; i-- {
		b.undo[i]()
	}
	return b.Cluster.Close()
}
