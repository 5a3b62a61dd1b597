package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/e2e/cluster"
)

const lease = 2 * time.Second

// benchExpiry measures how much longer than its lease a silent backend stays: the
// time from the signal that silences its agent until the balancer has given it
// up, less the lease. That of a stopped one is negative by as much as its last heartbeat
// was old; a killed one has registry.rejoin, which is as long here, from then on.
func benchExpiry(ctx context.Context, b *bench) (err error) {
	c, err := cluster.New(cluster.Options{Bin: b.bin, Dir: filepath.Join(b.dir), Backends: 3, Timeout: lease.String()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.StartServer(ctx); err != nil {
		return err
	}
	if err := c.StartAgents(ctx); err != nil {
		return err
	}
	stopped := b.measure("agent stopped (SIGSTOP), lease 2 s", "expiry after the lease", "ms", nil)
	killed := b.measure("agent killed (SIGKILL), lease 2 s", "expiry after the lease", "ms", nil)
	for i := range 2 { // three backends each
		b.step("expiry: silent backends", i+1, 2)
		for _, s := range []struct {
			*series
			signal syscall.Signal
			revive func(*cluster.Backend) error
		}{
			{stopped, syscall.SIGSTOP, func(be *cluster.Backend) error {
				be.Agent.Signal(syscall.SIGCONT)
				return nil
			}},
			{killed, syscall.SIGKILL, func(be *cluster.Backend) error { return be.StartAgent(ctx) }},
		} {
			if err := expire(ctx, c, s.series, s.signal); err != nil {
				return err
			}
			for _, be := range c.Backends {
				if err := s.revive(be); err != nil {
					return err
				}
			}
			if err := c.AwaitActive(ctx, len(c.Backends)); err != nil {
				return err
			}
		}
	}
	return nil
}

// expire silences all agents and adds the time each one took to be given up.
func expire(ctx context.Context, c *cluster.Cluster, s *series, signal syscall.Signal) error {
	silent := map[string]time.Time{}
	for _, be := range c.Backends {
		silent[be.Name] = time.Now()
		be.Agent.Signal(signal)
	}
	return cluster.Await(ctx, "the expiry of silent backends", func() error {
		rows, err := c.Control().Backends(ctx)
		if err != nil {
			return err
		}
		now := time.Now()
		for name, since := range silent {
			if !slices.ContainsFunc(rows, func(r api.BackendRow) bool { return r.Name == name }) {
				s.add(float64((now.Sub(since) - lease).Microseconds()) / 1000)
				delete(silent, name)
			}
		}
		if len(silent) > 0 {
			return fmt.Errorf("%d backends are still there", len(silent))
		}
		return nil
	})
}
