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
	run                  func(ctx context.Context, d *desk) error
	flags                func(d *desk)
}

// desk is where a tool works: its command line, taken apart.
type desk struct {
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

// errFailed says that a policy did not pass and that this has been told.
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
		fmt.Fprintf(e.stderr, "caplance policy: there is no tool %q\n\n", name)
		policyHelp(e.stderr)
		return errUsage
	}
	e.args = e.args[1:]
	d := &desk{env: e}
	if err := d.parse(&tools[i]); err != nil {
		return err
	}
	if err := tools[i].run(ctx, d); err != nil && !errors.Is(err, errUsage) && !errors.Is(err, errFailed) {
		return fmt.Errorf("%s: %w", name, err)
	} else if err != nil {
		return err
	}
	return nil
}

// parse reads flags before, between and after the operands.
func (d *desk) parse(t *tool) error {
	d.fs = flag.NewFlagSet("policy "+t.name, flag.ContinueOnError)
	d.fs.SetOutput(io.Discard)
	d.fs.Usage = func() {}
	d.output = "table"
	if !t.writes {
		d.fs.StringVar(&d.output, "o", "table", "how to print: `FORMAT` table or json")
	}
	if t.flags != nil {
		t.flags(d)
	}
	err := error(nil)
	for rest := d.args; len(rest) > 0 && err == nil; {
		if err = d.fs.Parse(rest); err != nil || d.fs.NArg() == 0 {
			break
		}
		d.operands, rest = append(d.operands, d.fs.Arg(0)), d.fs.Args()[1:]
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		t.help(d.fs, d.stdout)
		return flag.ErrHelp
	case err != nil:
	case len(d.operands) < t.operands:
		err = fmt.Errorf("operands are missing: it takes %s", t.takes)
	case len(d.operands) > t.operands:
		err = fmt.Errorf("%q is too much: it takes %s", d.operands[t.operands], t.takes)
	case d.output != "table" && d.output != "json":
		err = fmt.Errorf("-o %q is none of table, json", d.output)
	default:
		return nil
	}
	return d.usage(err)
}

// usage tells what is wrong with the command line.
func (d *desk) usage(err error) error {
	fmt.Fprintf(d.stderr, "caplance %s: %v\nTry caplance %s -h.\n", d.fs.Name(), err, d.fs.Name())
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
func (d *desk) show(v interface{ Print(io.Writer) error }) error {
	if d.output == "json" {
		e := json.NewEncoder(d.stdout)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	return v.Print(d.stdout)
}
