// Command caplancectl asks and steers what runs on this machine: the agent of
// a backend, and the balancer.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// Exit codes.
const (
	done   = 0
	failed = 1 // refused, or nobody answered
	usage  = 2 // the command line is wrong
)

// options are the flags; they may stand before and after the command.
type options struct {
	agent, server    string // sockets
	output           string
	service, backend string
	limit            int
	top              bool
	timeout          time.Duration
}

func (o *options) flags() *flag.FlagSet {
	fs := flag.NewFlagSet("caplancectl", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	fs.StringVar(&o.agent, "agent", "/var/run/caplance.sock", "")
	fs.StringVar(&o.server, "server", "/var/run/caplance-server.sock", "")
	fs.StringVar(&o.output, "o", "table", "")
	fs.StringVar(&o.service, "service", "", "")
	fs.StringVar(&o.backend, "backend", "", "")
	fs.IntVar(&o.limit, "limit", 100, "")
	fs.BoolVar(&o.top, "top", false, "")
	fs.DurationVar(&o.timeout, "timeout", 10*time.Second, "")
	return fs
}

// run executes the command line and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	cmd, operands, err := parse(args, &o)
	switch {
	case errors.Is(err, flag.ErrHelp):
		help(stdout)
		return done
	case err != nil:
		fmt.Fprintf(stderr, "caplancectl: %v\nTry caplancectl -h.\n", err)
		return usage
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	if err := cmd.run(ctx, &o, operands, stdout); err != nil {
		fmt.Fprintf(stderr, "caplancectl %s: %v\n", cmd.name, err)
		if errors.Is(err, errPolicyUsage) {
			return usage
		}
		return failed
	}
	return done
}

// parse finds the command and its operands among the flags.
func parse(args []string, o *options) (cmd command, operands []string, err error) {
	fs := o.flags()
	for rest := args; len(rest) > 0; {
		if err := fs.Parse(rest); err != nil {
			return cmd, nil, err
		}
		if fs.NArg() == 0 {
			break
		}
		operands, rest = append(operands, fs.Arg(0)), fs.Args()[1:]
	}
	if len(operands) == 0 {
		return cmd, nil, errors.New("command is missing")
	}
	name := operands[0]
	operands = operands[1:]
	if name == "help" {
		return cmd, nil, flag.ErrHelp
	}
	i := slices.IndexFunc(commands, func(c command) bool { return c.name == name })
	switch {
	case i < 0:
		return cmd, nil, fmt.Errorf("command %q is unknown", name)
	case len(operands) > commands[i].operands:
		return cmd, nil, fmt.Errorf("%s: %q is too much", name, operands[commands[i].operands])
	case o.output != "table" && o.output != "json":
		return cmd, nil, fmt.Errorf("-o %q is none of table, json", o.output)
	case o.limit < 0:
		return cmd, nil, fmt.Errorf("-limit %d is negative", o.limit)
	}
	return commands[i], operands, nil
}
