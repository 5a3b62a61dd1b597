package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/control"
)

// token creates a token, and prints what to do with it.
func token(ctx context.Context, o *options, operands []string, w io.Writer) error {
	if operands[0] != "create" {
		return fmt.Errorf("%q is not create", operands[0])
	}
	if o.name == "" {
		return errors.New("-name is missing: which agent is to join (like -name web1)?")
	}
	order := api.TokenOrder{Name: o.name, TTL: o.ttl.Seconds(), Address: o.address, Services: list(o.services), MaxNames: o.maxNames}
	for _, s := range list(o.allow) {
		p, err := api.ParsePrefix(s)
		if err != nil {
			return fmt.Errorf("-allow: %w", err)
		}
		order.Allow = append(order.Allow, p)
	}
	t, err := control.Dial(o.server).CreateToken(ctx, order)
	if err != nil {
		return err
	}
	if o.output == "json" {
		return printJSON(w, t)
	}
	_, err = fmt.Fprintf(w, "On %s, before %s (it works once):\n\n  sudo caplance join %s\n", t.Name, t.Expires.Local().Format(time.DateTime), t.Token)
	return err
}

// list splits what commas separate.
func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// agent removes one that has joined.
func agent(ctx context.Context, o *options, operands []string, w io.Writer) error {
	if operands[0] != "remove" {
		return fmt.Errorf("%q is not remove", operands[0])
	}
	if err := control.Dial(o.server).RemoveAgent(ctx, operands[1]); err != nil {
		return err
	}
	if o.output == "json" {
		return printJSON(w, map[string]string{"removed": operands[1]})
	}
	_, err := fmt.Fprintf(w, "%s is removed: its sessions end, and its backends go\n", operands[1])
	return err
}

// agentRows prints who may register.
func agentRows(t io.Writer, rows []api.AgentRow) {
	row(t, "AGENT", "FROM", "DATA IPS", "SERVICES", "NAMES", "MAX WEIGHT", "KEYS OR SAN")
	for _, a := range rows {
		from := a.From
		if a.Expires != nil {
			from += ", for " + age(time.Until(*a.Expires))
		}
		allow, services := "its own", "all"
		if len(a.Allow) > 0 {
			allow = strings.Trim(fmt.Sprint(a.Allow), "[]")
		}
		if len(a.Services) > 0 {
			services = strings.Join(a.Services, ",")
		}
		row(t, a.Name, from, allow, services, a.MaxNames, a.MaxWeight, strings.Join(slices.Concat(a.Keys, a.SAN), " "))
	}
	if slices.ContainsFunc(rows, func(a api.AgentRow) bool { return len(a.Sessions) > 0 }) {
		sessionRows(t, rows)
	}
}

// sessionRows prints by what agents have proven who they are: whoever changes keys or
// certificates sees here when an old one is out of use.
func sessionRows(t io.Writer, rows []api.AgentRow) {
	row(t)
	row(t, "SESSION", "AGENT", "PEER", "ENDS", "PROVEN BY")
	for _, a := range rows {
		for _, s := range a.Sessions {
			ends := "-"
			if s.Expires != nil {
				ends = "in " + age(time.Until(*s.Expires))
			}
			row(t, s.Backend, a.Name, s.Peer, ends, cmp.Or(s.Proven, "nothing"))
		}
	}
}
