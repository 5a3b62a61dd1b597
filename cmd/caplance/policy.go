package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"

	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/policies"
)

// tool is one subcommand of policy: the workbench of those who write policies.
type tool struct {
	name, takes, summary string
	operands             int // exactly
	example              string
	writes               bool // -o is a file of its own
	run                  func(ctx context.Context, inv *invocation) error
	flags                func(inv *invocation)
}

// invocation is the command line of a tool, taken apart.
type invocation struct {
	env
	fs       *flag.FlagSet
	operands []string
	output   string
	options  any // the tool's own, set by its flags
}

// tools is filled by init, since the help of each lists them.
var tools []tool

func init() {
	tools = []tool{
		newTool, inspectTool, checkTool, benchTool, simulateTool, recordTool, replayTool,
	}
}

// errFailed says that a policy did not pass and that this has been printed.
var errFailed = errors.New("failed")

func policy(ctx context.Context, e env) error {
	if len(e.args) == 0 {
		policyHelp(e.stderr)
		return errUsage
	}
	name := e.args[0]
	if name == "help" || name == "-h" || name == "--help" || name == "-help" {
		policyHelp(e.stdout)
		return nil
	}
	i := slices.IndexFunc(tools, func(t tool) bool { return t.name == name })
	if i < 0 {
		fmt.Fprintf(e.stderr, "caplance policy: tool %q is unknown\n\n", name)
		policyHelp(e.stderr)
		return errUsage
	}
	e.args = e.args[1:]
	inv := &invocation{env: e}
	if err := inv.parse(&tools[i]); err != nil {
		return err
	}
	if err := tools[i].run(ctx, inv); err != nil && !errors.Is(err, errUsage) && !errors.Is(err, errFailed) {
		return fmt.Errorf("%s: %w", name, err)
	} else if err != nil {
		return err
	}
	return nil
}

// parse reads flags before, between and after the operands.
func (inv *invocation) parse(t *tool) error {
	inv.fs = flag.NewFlagSet("policy "+t.name, flag.ContinueOnError)
	inv.fs.SetOutput(io.Discard)
	inv.fs.Usage = func() {}
	inv.output = "table"
	if !t.writes {
		inv.fs.StringVar(&inv.output, "o", "table", "how to print: `FORMAT` table or json")
	}
	if t.flags != nil {
		t.flags(inv)
	}
	err := error(nil)
	for rest := inv.args; len(rest) > 0 && err == nil; {
		if err = inv.fs.Parse(rest); err != nil || inv.fs.NArg() == 0 {
			break
		}
		inv.operands, rest = append(inv.operands, inv.fs.Arg(0)), inv.fs.Args()[1:]
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		t.help(inv.fs, inv.stdout)
		return flag.ErrHelp
	case err != nil:
	case len(inv.operands) < t.operands:
		err = fmt.Errorf("operands are missing: it takes %s", t.takes)
	case len(inv.operands) > t.operands:
		err = fmt.Errorf("unexpected argument %q: it takes %s", inv.operands[t.operands], t.takes)
	case inv.output != "table" && inv.output != "json":
		err = fmt.Errorf("-o %q must be table or json", inv.output)
	default:
		return nil
	}
	return inv.usage(err)
}

// usage tells what is wrong with the command line.
func (inv *invocation) usage(err error) error {
	fmt.Fprintf(inv.stderr, "caplance %s: %v\nTry caplance %s -h.\n", inv.fs.Name(), err, inv.fs.Name())
	return errUsage
}

func (t *tool) help(fs *flag.FlagSet, w io.Writer) {
	fmt.Fprintf(w, "caplance policy %s: %s\n\nUsage: caplance policy %s %s [flags]\n\n", t.name, t.summary, t.name, t.takes)
	fs.SetOutput(w)
	fs.PrintDefaults()
	fmt.Fprintf(w, "\nExample:\n%s\nExit codes: 0 ok, 1 failed or refused, 2 usage.\n", t.example)
}

func policyHelp(w io.Writer) {
	fmt.Fprint(w, "caplance policy: write, try and measure scheduling policies. Nothing here needs root or a balancer,\nbut record, which asks one.\n\nUsage: caplance policy TOOL [flags]\n\nTools:\n")
	for _, t := range tools {
		fmt.Fprintf(w, "  %-8s  %-22s  %s\n", t.name, t.takes, t.summary)
	}
	fmt.Fprintln(w, "\nPOLICY is a bundled policy's name or a file that ends in .wasm. TOOL -h explains its flags.\n"+
		"To swap the policy of a running balancer: caplancectl policy swap SERVICE NAME|FILE.")
}

// load compiles the policy that spec names.
func load(ctx context.Context, rt *host.Runtime, spec string) (*host.Policy, error) {
	name, wasm, err := policies.Load(spec)
	if err != nil {
		return nil, err
	}
	return rt.Compile(ctx, name, wasm)
}

// show prints a result, for a program or for people.
func (inv *invocation) show(v interface{ Print(io.Writer) error }) error {
	if inv.output == "json" {
		e := json.NewEncoder(inv.stdout)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	return v.Print(inv.stdout)
}
