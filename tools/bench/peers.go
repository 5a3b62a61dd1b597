package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/caplance/caplance/e2e/cluster"
	"github.com/caplance/caplance/e2e/topology"
)

// sbin is where Debian puts servers, and sudo's PATH may not look.
const sbin = "/usr/sbin"

// program finds a peer's program, or skips the peer.
func program(name, install string) (path string, err error) {
	if path, err = exec.LookPath(name); err == nil {
		return path, nil
	}
	if path, err = exec.LookPath(filepath.Join(sbin, name)); err == nil {
		return path, nil
	}
	return "", skip(fmt.Sprintf("%s is not installed: apt-get install %s", name, install))
}

// peer is a program that balances as ours does, with its configuration.
type peer struct {
	path   string
	args   []string
	config string // the file's content; it is peer.conf in the testbed's directory
	copies int
}

// run starts a peer in the balancer's place and waits until it leads to the
// backend.
func (p peer) run(ctx context.Context, b *testbed) error {
	if err := b.ownVIP(); err != nil {
		return err
	}
	if err := os.WriteFile(b.peerFile(), []byte(p.config), 0o644); err != nil {
		return fmt.Errorf("configuration of %s: %w", p.path, err)
	}
	var started []*topology.Process
	for range p.copies {
		proc, err := b.LB.Start(p.path, p.args...)
		if err != nil {
			return fmt.Errorf("%s: %w", p.path, err)
		}
		b.undo = append(b.undo, func() { _ = proc.Stop(3 * time.Second) })
		started = append(started, proc)
	}
	return cluster.Await(ctx, p.path, func() error {
		for _, proc := range started {
			select {
			case <-proc.Done():
				return cluster.Final(errors.Join(fmt.Errorf("%s ended: %s", p.path, proc.Output()), proc.Err()))
			default:
			}
		}
		return b.echoes()
	})
}

// peerFile returns the file of a peer's configuration.
func (b *testbed) peerFile() string { return filepath.Join(b.Dir, "peer.conf") }

// ownVIP gives the VIP to the balancer's host, and the client to the VIP.
func (b *testbed) ownVIP() error {
	b.to = cluster.VIP4
	return b.LB.AddAddr("eth0", netip.PrefixFrom(b.to, b.to.BitLen()))
}
