package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/caplance/caplance/e2e/cluster"
)

// caplance is our balancer in one of its shapes.
type caplance struct{ rung, mode, policy string }

// toml is the configuration. The lease is long: who waits for the processor
// while others are measured is not to expire.
func (s caplance) toml(b *bed) string {
	return fmt.Sprintf(`state_dir = %q
control = %q
[datapath]
rung = %q
[registry]
listen = "[::]:1338"
read_timeout = "30s"
[[service]]
name = "bench"
vip = %q
protocol = "both"
ports = [%d, %d]
policy = %q
mode = %q
`, filepath.Join(b.Dir, "lb"), b.ServerSocket(), s.rung, cluster.VIP4, echoPort, discardPort, s.policy, s.mode)
}

func (s caplance) setUp(ctx context.Context, b *bed) error {
	b.to = cluster.VIP4
	b.Rung = s.rung // the agents', too
	if err := b.WriteServerConfig(s.toml(b)); err != nil {
		return err
	}
	if err := s.check(ctx, b); err != nil {
		return err
	}
	if err := b.StartServer(ctx); err != nil {
		return errors.Join(skip("it does not start: "+lastLine(err.Error())), ctx.Err())
	}
	return b.StartAgents(ctx)
}

// check leaves out what this build of Caplance does not know.
func (s caplance) check(ctx context.Context, b *bed) error {
	p, err := b.LB.Start(filepath.Join(b.Bin, "caplance"), "server", "-t", "-c", b.ServerFile())
	if err != nil {
		return err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		p.Kill()
		return ctx.Err()
	}
	if p.Err() != nil {
		return skip("this build refuses it: " + strings.ReplaceAll(lastLine(p.Output()), b.Dir+"/", ""))
	}
	return nil
}

// lastLine is where programs say what ended them.
func lastLine(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return lines[len(lines)-1]
}
