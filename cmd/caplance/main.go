// Command caplance is the load balancer (caplance server) and the agent that
// runs on each backend (caplance agent).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/caplance/caplance/core/plain"
	"github.com/caplance/caplance/plugins/host"
)

// env is all that a command sees of the process it runs in.
type env struct {
	args           []string
	stdout, stderr io.Writer
	hangup         <-chan os.Signal // SIGHUP: reopen the log
}

// command is one subcommand; its run returns nil, an error to print, or
// errUsage or errFailed after having explained itself.
type command struct {
	name, alias, summary string // alias "" for none
	run                  func(ctx context.Context, e env) error
}

func (c *command) is(name string) bool { return name == c.name || c.alias != "" && name == c.alias }

// commands is filled by init, since help lists the table it is part of.
var commands []command

func init() {
	commands = []command{
		{"server", "", "balance flows over the backends that register", server},
		{"agent", "client", "register this machine as a backend and receive its flows", runAgent},
		{"init", "", "write the files of a first start, of a balancer or an agent", initialise},
		{"join", "", "have a balancer enrol this machine by a token", join},
		{"keygen", "", "make the key by which this machine is known", keygen},
		{"policy", "", "write, check, measure and simulate scheduling policies", policy},
		{"config", "", "show a configuration with all its defaults", showConfig},
		{"doctor", "", "find out what this machine has of what is needed", examine},
		{"unload", "", "take back what a killed balancer or agent left on this machine", unload},
		{"version", "--version", "print the version", printVersion},
	}
}

// compilerCommand is the process in which a server has a policy compiled. It is
// no command for people, so it is not in the table.
const compilerCommand = "compile-policy"

// errUsage says that the command line was wrong and that this has been printed.
var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	os.Exit(run(ctx, env{os.Args[1:], os.Stdout, os.Stderr, hangup}))
}

// run executes the command line and returns the exit code: 0 done, 1 failed,
// 2 usage. What it prints has no control characters, whoever thought of it.
func run(ctx context.Context, e env) int {
	e.stdout, e.stderr = plain.Writer{W: e.stdout}, plain.Writer{W: e.stderr}
	if len(e.args) == 0 {
		usage(e.stderr)
		return 2
	}
	name := e.args[0]
	e.args = e.args[1:]
	if name == "help" || name == "-h" || name == "--help" || name == "-help" {
		usage(e.stdout)
		return 0
	}
	if name == compilerCommand {
		return host.RunCompiler(ctx, e.args, os.Stdin, e.stderr)
	}
	for _, c := range commands {
		if !c.is(name) {
			continue
		}
		switch err := c.run(ctx, e); {
		case err == nil, errors.Is(err, flag.ErrHelp):
			return 0
		case errors.Is(err, errUsage):
			return 2
		case errors.Is(err, errFailed):
			return 1
		default:
			fmt.Fprintf(e.stderr, "caplance %s: %v\n", c.name, err)
			return 1
		}
	}
	names := make([]string, len(commands))
	for i, c := range commands {
		names[i] = c.name
	}
	fmt.Fprintf(e.stderr, "caplance: command %q is unknown%s\n\n", name, plain.DidYouMean(name, names))
	usage(e.stderr)
	return 2
}

func usage(w io.Writer) {
	fmt.Fprintln(w, "Caplance, a layer-4 load balancer with WASM scheduling policies.\n\nUsage: caplance COMMAND [flags]\n\nCommands:")
	for _, c := range commands {
		name := c.name
		if c.alias != "" {
			name += ", " + c.alias
		}
		fmt.Fprintf(w, "  %-15s %s\n", name, c.summary)
	}
	fmt.Fprintln(w, "\nCOMMAND -h explains its flags. To ask or steer what runs: caplancectl -h.")
}

// flags parses a command's flags and refuses what is left over. fs.Parse
// prints what is wrong.
func flags(e env, fs *flag.FlagSet) error {
	fs.SetOutput(e.stderr)
	if err := fs.Parse(e.args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if fs.NArg() > 0 {
		fmt.Fprintf(e.stderr, "caplance %s: unexpected argument %q\n", fs.Name(), fs.Arg(0))
		fs.Usage()
		return errUsage
	}
	return nil
}

// operand parses a command's flags and returns the one thing that it is about; what
// says which that is.
func operand(e env, fs *flag.FlagSet, what string) (string, error) {
	fs.SetOutput(e.stderr)
	if err := fs.Parse(e.args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return "", err
		}
		return "", errUsage
	}
	if fs.NArg() != 1 {
		fmt.Fprintf(e.stderr, "caplance %s: %s\n", fs.Name(), what)
		return "", errUsage
	}
	return fs.Arg(0), nil
}

// checkOutput refuses a format that there is not.
func checkOutput(e env, fs *flag.FlagSet, format string) error {
	if format == "table" || format == "json" {
		return nil
	}
	fmt.Fprintf(e.stderr, "caplance %s: -o %q must be table or json\n", fs.Name(), format)
	return errUsage
}
