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
type caplance struct{ kind, mode, policy string }

// toml returns the configuration. The lease is long: who waits for the processor
// while others are measured is not to expire.
func (s caplance) toml(b *testbed) string {
	return fmt.Sprintf(`state_dir = %q
control = %q
[datapath]
type = %q
[registry]
listen = "[::]:1338"
lease = "15s"
grace = "15s"
auth = "none"
agents = ["10.77.0.0/24"]
[[service]]
name = "bench"
vip = %q
protocol = "both"
ports = [%d, %d]
policy = %q
mode = %q
`, filepath.Join(b.Dir, "lb"), b.ServerSocket(), s.kind, cluster.VIP4, echoPort, discardPort, s.policy, s.mode)
}

func (s caplance) setUp(ctx context.Context, b *testbed) error {
	b.to = cluster.VIP4
	b.Type = s.kind // the agents', too
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
func (s caplance) check(ctx context.Context, b *testbed) error {
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

// lastLine returns the last line of an output, where programs say what ended them.
func lastLine(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return lines[len(lines)-1]
}
