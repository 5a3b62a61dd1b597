package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/caplance/caplance/core/control"
)

// command is one line of the help and what it does.
type command struct {
	name     string
	operands int    // at most
	takes    string // the operands, for the help
	summary  string
	run      func(ctx context.Context, o *options, operands []string, w io.Writer) error
}

var commands = []command{
	{"pause", 1, "[NAME]", "hold all packets back, stay registered", ask(control.Pause)},
	{"resume", 1, "[NAME]", "end pause and drain; register again after deregister", ask(control.Resume)},
	{"drain", 1, "[NAME]", "take no new flows, let established ones end", ask(control.Drain)},
	{"deregister", 1, "[NAME]", "leave the pool now, until resume", ask(control.Deregister)},
	{"getstate", 1, "[NAME]", "print the agent's state", ask(control.GetState)},
	{"backends", 0, "", "list the backends of each service", show(
		func(ctx context.Context, c *control.Client, _ *options) (any, error) { return c.Backends(ctx) })},
	{"services", 0, "", "list the services and who picked their flows", show(
		func(ctx context.Context, c *control.Client, _ *options) (any, error) { return c.Services(ctx) })},
	{"flows", 0, "", "list flows (-top, -service, -backend, -limit)", show(
		func(ctx context.Context, c *control.Client, o *options) (any, error) {
			return c.Flows(ctx, control.FlowFilter{Service: o.service, Backend: o.backend, Top: o.top, Limit: o.limit})
		})},
	{"explain", 2, "SRC:PORT VIP:PORT/tcp", "say where a flow's packets go, and why", explain},
	{"policy", 3, "", "show how the policies do; and change them:", policy},
	{"stats", 0, "", "print queues, tables and counters", show(
		func(ctx context.Context, c *control.Client, _ *options) (any, error) { return c.Stats(ctx) })},
	{"handover", 0, "", "end the balancer, leave all flows to the kernel until its next start", handover},
}

const agentCommands = 5 // the first ones are the agent's

// ask carries out an operation at the agent and prints the state it leads to.
func ask(op control.Op) func(context.Context, *options, []string, io.Writer) error {
	return func(ctx context.Context, o *options, operands []string, w io.Writer) error {
		state, err := control.AskAgent(ctx, o.agent, op, strings.Join(operands, ""))
		if err != nil {
			return err
		}
		if o.output == "json" {
			return printJSON(w, map[string]string{"state": state})
		}
		_, err = fmt.Fprintln(w, state)
		return err
	}
}

// show prints what the balancer answers.
func show(get func(context.Context, *control.Client, *options) (any, error)) func(context.Context, *options, []string, io.Writer) error {
	return func(ctx context.Context, o *options, _ []string, w io.Writer) error {
		answer, err := get(ctx, control.Dial(o.server), o)
		if err != nil {
			return err
		}
		if o.output == "json" {
			return printJSON(w, answer)
		}
		return printTable(w, answer)
	}
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func help(w io.Writer) {
	fmt.Fprint(w, `caplancectl asks and steers the Caplance that runs on this machine.

Usage: caplancectl COMMAND [flags]

On a backend, for its agent (NAME guards against the wrong machine):
`)
	for i, c := range commands {
		if i == agentCommands {
			fmt.Fprint(w, "\nOn the balancer:\n")
		}
		fmt.Fprintf(w, "  %-29s %s\n", strings.TrimSpace(c.name+" "+c.takes), c.summary)
		if c.name == "policy" {
			fmt.Fprint(w, policyHelp)
		}
	}
	fmt.Fprint(w, `
Flags, before or after the command:
  -o table|json        how to print (table)
  -agent PATH          the agent's socket (/var/run/caplance.sock)
  -server PATH         the balancer's socket (/var/run/caplance-server.sock)
  -service, -backend   only flows of this service, of this backend
  -limit N             at most N flows (100); 0 is all
  -top                 the flows with the most bytes, in that order
  -timeout DURATION    give up after (10s)

Exit codes: 0 done, 1 refused or failed, 2 usage.

Take a backend out for maintenance, and in again:
  caplancectl drain && watch caplancectl getstate   (until it says Drained)
  caplancectl resume

Replace the balancer's binary without losing a connection:
  caplancectl handover && systemctl restart caplance   (or start it by hand)
`)
}
