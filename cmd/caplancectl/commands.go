package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/control"
)

// command is one line of the help and what it does.
type command struct {
	name        string
	least, most int      // operands
	takes       string   // the operands, for the help
	flags       []string // beside -o and -timeout
	summary     string
	timeout     time.Duration // -timeout's default, 0: defaultTimeout
	run         func(ctx context.Context, o *options, operands []string, w io.Writer) error
}

var (
	ofAgent    = []string{"agent"}
	ofBalancer = []string{"server"}
	steering   = []string{"server", "service", "for", "reason"}
	either     = append([]string{"agent"}, steering...)
)

// section is commands under a heading of the help.
type section struct {
	heading  string
	commands []command
}

var sections = []section{
	{"On either:", []command{
		{name: "status", flags: []string{"agent", "server"}, summary: "print whether all is well, and what is not", run: status},
		{name: "handover", most: 1, takes: "[NAME]", flags: []string{"agent", "server"}, summary: "end it, leave its work to the kernel until its next start", run: handover},
	}},
	{"On a backend, for its agent (NAME guards against the wrong machine), or on the balancer, for the backend NAME:", []command{
		{name: "pause", most: 1, takes: "[NAME]", flags: either, summary: "hold all packets back, stay registered", run: steer(control.Pause)},
		{name: "drain", most: 1, takes: "[NAME]", flags: either, summary: "take no new flows, let established ones end", run: steer(control.Drain)},
		{name: "resume", most: 1, takes: "[NAME]", flags: either, summary: "end pause and drain; at the agent: register again after deregister", run: steer(control.Resume)},
		{name: "weight", least: 1, most: 2, takes: "[NAME] N|reset", flags: either, summary: "share of new flows from now on; reset, at the balancer: the agent's", run: weight},
	}},
	{"On a backend, for its agent (NAME guards against the wrong machine):", []command{
		{name: "deregister", most: 1, takes: "[NAME]", flags: ofAgent, summary: "leave the pool now, until resume", run: ask(control.Deregister)},
		{name: "getstate", most: 1, takes: "[NAME]", flags: ofAgent, summary: "print the agent's state", run: ask(control.GetState)},
	}},
	{"On the balancer:", []command{
		{name: "disable", least: 1, most: 1, takes: "NAME", flags: steering, summary: "take it out of its pools, flows and all, and keep it out", run: order("disable")},
		{name: "enable", least: 1, most: 1, takes: "NAME", flags: steering, summary: "end disable", run: order("enable")},
		{name: "kick", least: 1, most: 1, takes: "NAME", flags: []string{"server", "reason"}, summary: "end its session and its flows; it may register again", run: order("kick")},
		{name: "backends", flags: []string{"server", "service", "backend"}, summary: "list the backends of each service (-service, -backend)", run: show(
			func(ctx context.Context, c *control.Client, o *options) (any, error) {
				return c.BackendsOf(ctx, api.BackendFilter{Service: o.service, Backend: o.backend})
			})},
		{name: "token", least: 1, most: 1, takes: "create", flags: []string{"server", "name", "ttl", "address", "allow", "services", "max-names"}, summary: "let the agent -name join by caplance join, within -ttl (10m; -address, -allow, -services, -max-names)", run: token},
		{name: "agents", flags: ofBalancer, summary: "list who may register, by what sessions have proven it, and the tokens that are out", run: show(
			func(ctx context.Context, c *control.Client, _ *options) (any, error) { return c.Agents(ctx) })},
		{name: "agent", least: 2, most: 2, takes: "remove NAME", flags: ofBalancer, summary: "forget one that has joined, or its token", run: agent},
		{name: "services", flags: ofBalancer, summary: "list the services and who picked their flows", run: show(
			func(ctx context.Context, c *control.Client, _ *options) (any, error) { return c.Services(ctx) })},
		{name: "flows", flags: []string{"server", "service", "backend", "client", "state", "older", "limit", "top"}, summary: "list flows (-top, -service, -backend, -client, -state, -older, -limit)", run: show(
			func(ctx context.Context, c *control.Client, o *options) (any, error) {
				f := api.FlowFilter{Service: o.service, Backend: o.backend, State: o.state, Older: o.older, Top: o.top, Limit: o.limit}
				var err error
				if o.client != "" {
					f.Client, err = api.ParsePrefix(o.client)
				}
				if err != nil {
					return nil, fmt.Errorf("client %w", err)
				}
				return c.Flows(ctx, f)
			})},
		{name: "events", flags: []string{"server", "limit", "f"}, summary: "print what happened last: who came, was refused and why, was ordered (-limit; -f: and what happens)", run: events},
		{name: "explain", least: 2, most: 2, takes: "SRC:PORT VIP:PORT/tcp", flags: ofBalancer, summary: "say where a flow's packets go, and why", run: explain},
		{name: "policy", most: 3, flags: ofBalancer, summary: "show how the policies do; and change them:", timeout: time.Minute, run: policy},
		{name: "stats", flags: ofBalancer, summary: "print queues, tables and counters", run: show(
			func(ctx context.Context, c *control.Client, _ *options) (any, error) { return c.Stats(ctx) })},
		{name: "reload", flags: []string{"server", "n"}, summary: "make the changed configuration file hold (-n: only print the changes)", timeout: time.Minute, run: reload},
	}},
}

// find returns the command of a name.
func find(name string) (command, bool) {
	for _, s := range sections {
		for _, c := range s.commands {
			if c.name == name {
				return c, true
			}
		}
	}
	return command{}, false
}

// names returns those of all commands.
func names() (out []string) {
	for _, s := range sections {
		for _, c := range s.commands {
			out = append(out, c.name)
		}
	}
	return out
}

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
