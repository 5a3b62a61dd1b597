package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/control"
)

// atBalancer reports whether an order that both take is for the balancer. Flags
// say so, else who has a socket here.
func (o *options) atBalancer() (bool, error) {
	balancer := o.set["server"] || o.set["service"] || o.set["for"] || o.set["reason"]
	agent := o.set["agent"]
	if !balancer && !agent {
		balancer, agent = exists(o.server), exists(o.agent)
	}
	if balancer && agent {
		return false, fmt.Errorf("balancer and agent both are here: say which one is meant (-server %s or -agent %s; -service, -for and -reason are for the balancer)", o.server, o.agent)
	}
	return balancer, nil
}

// steer carries out an operation at the agent, or as an order at the balancer.
func steer(op control.Op) func(context.Context, *options, []string, io.Writer) error {
	return func(ctx context.Context, o *options, operands []string, w io.Writer) error {
		balancer, err := o.atBalancer()
		if err != nil {
			return err
		}
		if !balancer {
			return ask(op)(ctx, o, operands, w)
		}
		return order(strings.ToLower(string(op)))(ctx, o, operands, w)
	}
}

// order has the balancer carry out an order about a backend.
func order(verb string) func(context.Context, *options, []string, io.Writer) error {
	return func(ctx context.Context, o *options, operands []string, w io.Writer) error {
		return o.order(ctx, w, api.AdminOrder{Verb: verb}, operands)
	}
}

func (o *options) order(ctx context.Context, w io.Writer, what api.AdminOrder, operands []string) error {
	if len(operands) != 1 {
		return errors.New("the balancer has to be told which backend: its NAME is missing (caplancectl backends lists them)")
	}
	what.Backend, what.Service, what.For, what.Reason = operands[0], o.service, o.lasts.Seconds(), o.reason
	rows, err := control.Dial(o.server).Steer(ctx, what)
	if err != nil {
		return err
	}
	if o.output == "json" {
		return printJSON(w, rows)
	}
	if len(rows) == 0 {
		_, err = fmt.Fprintf(w, "%s: no orders, it is as its agent says\n", what.Backend)
		return err
	}
	printOrders(w, rows)
	return nil
}

// weight gives a backend another share, at the agent or at the balancer.
func weight(ctx context.Context, o *options, operands []string, w io.Writer) error {
	balancer, err := o.atBalancer()
	if err != nil {
		return err
	}
	share, name := operands[len(operands)-1], operands[:len(operands)-1]
	if balancer && share == "reset" {
		return o.order(ctx, w, api.AdminOrder{Verb: "weight"}, name)
	}
	n, err := strconv.ParseUint(share, 10, 16)
	if err != nil {
		return fmt.Errorf("weight %q is not a number from 0 to 65535, or at the balancer reset", share)
	}
	number := uint32(n)
	if balancer {
		return o.order(ctx, w, api.AdminOrder{Verb: "weight", Weight: &number}, name)
	}
	state, err := control.AgentWeight(ctx, o.agent, strings.Join(name, ""), number)
	if err != nil {
		return err
	}
	if o.output == "json" {
		return printJSON(w, map[string]string{"state": state})
	}
	_, err = fmt.Fprintln(w, state)
	return err
}

// printOrders prints a line for each order.
func printOrders(w io.Writer, rows []api.AdminRow) {
	for _, r := range rows {
		where := "in every service"
		if r.Service != "" {
			where = "in " + r.Service
		}
		what := r.What()
		if r.Over {
			what += " (over)"
		}
		fmt.Fprintf(w, "%s: %s %s, by %s (uid %d) %s ago", r.Backend, what, where, r.User, r.UID, age(time.Since(r.Since)))
		if r.Until != nil {
			fmt.Fprintf(w, ", for another %s", age(time.Until(*r.Until)))
		}
		if r.Reason != "" {
			fmt.Fprintf(w, ": %s", r.Reason)
		}
		fmt.Fprintln(w)
	}
}

// orders returns what is ordered in a row of a table: drain,weight.
func orders(rows []api.AdminRow) string {
	var words []string
	for _, r := range rows {
		words = append(words, r.Verb)
	}
	if len(words) == 0 {
		return "-"
	}
	return strings.Join(words, ",")
}
