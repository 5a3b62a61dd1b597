package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/caplance/caplance/core/agent"
	"github.com/caplance/caplance/core/config"
)

const configHelp = `Usage: caplance config show [-agent] [-c file]

Prints a configuration as it is understood: every key, with the line that sets
it, or that it is the default. The output means the same as the file.
`

// showConfig carries out config show.
func showConfig(_ context.Context, e env) error {
	if len(e.args) == 0 {
		fmt.Fprint(e.stderr, configHelp)
		return errUsage
	}
	switch name := e.args[0]; name {
	case "show":
	case "help", "-h", "--help", "-help":
		fmt.Fprint(e.stdout, configHelp)
		return nil
	default:
		fmt.Fprintf(e.stderr, "caplance config: command %q is unknown\n\n%s", name, configHelp)
		return errUsage
	}
	e.args = e.args[1:]
	fs := flag.NewFlagSet("config show", flag.ContinueOnError)
	fs.Usage = func() { fmt.Fprint(fs.Output(), configHelp+"\nFlags:\n"); fs.PrintDefaults() }
	ofAgent := fs.Bool("agent", false, "an agent's file, not a balancer's")
	file := fs.String("c", "", "configuration `file`; default /etc/caplance/caplance.toml, with -agent agent.toml there")
	if err := flags(e, fs); err != nil {
		return err
	}
	show, path := config.ShowServer, "/etc/caplance/caplance.toml"
	if *ofAgent {
		show, path = agent.Show, "/etc/caplance/agent.toml"
	}
	if *file != "" {
		path = *file
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	return show(e.stdout, path, data)
}
