// Command caplancectl asks and steers what runs on this machine: the agent of
// a backend, and the balancer.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/caplance/caplance/core/plain"
	"github.com/caplance/caplance/core/version"
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
	client, state    string // of flows
	older            time.Duration
	limit            int
	top, follow      bool
	dryRun           bool
	lasts            time.Duration // of an order; 0: for good
	reason           string
	name, address    string // of an agent that is to join, and of the balancer for it
	allow, services  string
	maxNames         int
	ttl              time.Duration
	timeout          time.Duration   // 0: the command's
	set              map[string]bool // the flags that were given
}

const defaultTimeout = 10 * time.Second

func (o *options) flags() *flag.FlagSet {
	fs := flag.NewFlagSet("caplancectl", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	fs.StringVar(&o.agent, "agent", "/var/run/caplance.sock", "")
	fs.StringVar(&o.server, "server", "/var/run/caplance-server.sock", "")
	fs.StringVar(&o.output, "o", "table", "")
	fs.StringVar(&o.service, "service", "", "")
	fs.StringVar(&o.backend, "backend", "", "")
	fs.StringVar(&o.client, "client", "", "")
	fs.StringVar(&o.state, "state", "", "")
	duration(fs, &o.older, "older")
	fs.IntVar(&o.limit, "limit", 100, "")
	fs.BoolVar(&o.top, "top", false, "")
	fs.BoolVar(&o.follow, "f", false, "")
	fs.BoolVar(&o.dryRun, "n", false, "")
	duration(fs, &o.lasts, "for")
	fs.StringVar(&o.reason, "reason", "", "")
	fs.StringVar(&o.name, "name", "", "")
	fs.StringVar(&o.address, "address", "", "")
	fs.StringVar(&o.allow, "allow", "", "")
	fs.StringVar(&o.services, "services", "", "")
	fs.IntVar(&o.maxNames, "max-names", 1, "")
	o.ttl = 10 * time.Minute
	duration(fs, &o.ttl, "ttl")
	duration(fs, &o.timeout, "timeout")
	return fs
}

// duration adds a flag for a time.
func duration(fs *flag.FlagSet, d *time.Duration, name string) {
	fs.Func(name, "", func(text string) error {
		v, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("write it like 30s, 10m or 24h")
		}
		*d = v
		return nil
	})
}

// run executes the command line and returns the exit code. What it prints has
// no control characters, whoever thought of it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	stdout, stderr = plain.Writer{W: stdout}, plain.Writer{W: stderr}
	if len(args) == 1 && (args[0] == "version" || args[0] == "--version") {
		fmt.Fprintln(stdout, "caplancectl", version.String())
		return done
	}
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
	if !o.follow || o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, cmp.Or(o.timeout, cmd.timeout, defaultTimeout))
		defer cancel()
	}
	switch err := cmd.run(ctx, &o, operands, stdout); {
	case err == nil:
		return done
	case errors.Is(err, errUnwell):
		return failed
	default:
		fmt.Fprintf(stderr, "caplancectl %s: %v\n", cmd.name, err)
		if errors.Is(err, errPolicyUsage) {
			return usage
		}
		return failed
	}
}

// parse finds the command and its operands among the flags, and holds both to
// what the command takes.
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
	cmd, ok := find(name)
	if !ok {
		return cmd, nil, fmt.Errorf("command %q is unknown%s", name, plain.DidYouMean(name, names()))
	}
	o.set = map[string]bool{}
	fs.Visit(func(f *flag.Flag) { o.set[f.Name] = true })
	return cmd, operands, cmd.check(o, operands)
}

// check reports what the command does not take.
func (c *command) check(o *options, operands []string) error {
	for _, name := range slices.Sorted(maps.Keys(o.set)) {
		if takes := append([]string{"o", "timeout"}, c.flags...); !slices.Contains(takes, name) {
			return fmt.Errorf("%s: unexpected flag -%s (it takes -%s)", c.name, name, strings.Join(takes, ", -"))
		}
	}
	switch {
	case len(operands) > c.most:
		return fmt.Errorf("%s: unexpected argument %q", c.name, operands[c.most])
	case len(operands) < c.least:
		return fmt.Errorf("%s: arguments are missing (it takes %s)", c.name, c.takes)
	case o.output != "table" && o.output != "json":
		return fmt.Errorf("-o %q must be table or json", o.output)
	case o.limit < 0:
		return fmt.Errorf("-limit %d is negative", o.limit)
	case o.set["for"] && o.lasts < time.Second:
		return fmt.Errorf("-for %s is less than a second", o.lasts)
	case o.set["timeout"] && o.timeout <= 0:
		return fmt.Errorf("-timeout %s is not positive", o.timeout)
	}
	return nil
}
