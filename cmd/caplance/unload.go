package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/caplance/caplance/core/agent"
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/daemon"
)

// unload cleans up after a balancer or an agent that was killed and is not to come
// back. It needs no key.
func unload(_ context.Context, e env) error {
	fs := flag.NewFlagSet("unload", flag.ContinueOnError)
	file := fs.String("c", "", "the configuration `file`; default /etc/caplance/caplance.toml, with -agent agent.toml there")
	ofAgent := fs.Bool("agent", false, "take back what an agent left")
	if err := flags(e, fs); err != nil {
		return err
	}
	path := cmp.Or(*file, "/etc/caplance/caplance.toml")
	if *ofAgent {
		path = cmp.Or(*file, "/etc/caplance/agent.toml")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if *ofAgent {
		cfg, err := agent.Parse(path, data)
		if err != nil {
			return err
		}
		return agent.Unload(cfg.StateDir)
	}
	cfg, err := config.ParseServer(path, data)
	if err != nil {
		return err
	}
	return daemon.Unload(cfg)
}
