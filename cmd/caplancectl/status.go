package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/control"
)

// errUnwell ends status in 1; what is wrong has been printed.
var errUnwell = errors.New("not all is well")

// machineStatus is what runs on this machine.
type machineStatus struct {
	Balancer *api.StatusReport `json:"balancer,omitempty"`
	Agent    *api.AgentStatus  `json:"agent,omitempty"`
}

// status prints whether all is well with the balancer, the agent, or both,
// whichever has a socket here. Without any, the balancer's error tells more.
func status(ctx context.Context, o *options, _ []string, w io.Writer) error {
	agent := o.set["agent"] || !o.set["server"] && exists(o.agent)
	balancer := o.set["server"] || !agent || !o.set["agent"] && exists(o.server)
	var s machineStatus
	if balancer {
		report, err := control.Dial(o.server).Status(ctx)
		if err != nil {
			return err
		}
		s.Balancer = &report
	}
	if agent {
		report, err := control.AgentStatus(ctx, o.agent)
		if err != nil {
			return err
		}
		s.Agent = &report
	}
	if err := s.print(o, w); err != nil {
		return err
	}
	if s.Balancer != nil && !s.Balancer.Healthy || s.Agent != nil && !s.Agent.Healthy {
		return errUnwell
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func (s *machineStatus) print(o *options, w io.Writer) error {
	if o.output == "json" {
		return printJSON(w, s)
	}
	if s.Balancer != nil {
		if err := printStatus(w, s.Balancer); err != nil {
			return err
		}
	}
	if s.Balancer != nil && s.Agent != nil {
		fmt.Fprintln(w)
	}
	if s.Agent != nil {
		return printAgent(w, s.Agent)
	}
	return nil
}

func printStatus(w io.Writer, s *api.StatusReport) error {
	fmt.Fprintf(w, "balancer: %s: %s\n", health(s.Healthy), s.Summary)
	fmt.Fprintf(w, "revision %d, datapath %s\n", s.Revision, s.Datapath)
	printPrivileges(w, s.Privileges)
	fmt.Fprintln(w)
	if err := printTargets(w, s.Targets); err != nil {
		return err
	}
	if len(s.Links) > 0 {
		fmt.Fprintln(w)
		if err := printLinks(w, s.Links); err != nil {
			return err
		}
	}
	if err := printCertificates(w, s.Certificates); err != nil {
		return err
	}
	if len(s.Admin) > 0 {
		fmt.Fprintln(w, "\nthe operator's orders:")
		printOrders(w, s.Admin)
	}
	printWarnings(w, s.Warnings)
	return nil
}

func printWarnings(w io.Writer, list []string) {
	if len(list) > 0 {
		fmt.Fprintln(w)
	}
	for _, warning := range list {
		fmt.Fprintf(w, "warning: %s\n", strings.ReplaceAll(warning, "\n", "; "))
	}
}

// printCertificates prints until when those in use are valid, if there are any.
func printCertificates(w io.Writer, rows []api.CertificateRow) error {
	if len(rows) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row(t, "CERTIFICATE", "SHA-256", "OF", "ENDS", "FILE")
	for _, r := range rows {
		ends := "in " + age(time.Until(r.Until))
		switch {
		case time.Now().After(r.Until):
			ends = "EXPIRED " + age(time.Since(r.Until)) + " ago"
		case time.Now().Before(r.From):
			ends = "NOT VALID for another " + age(time.Until(r.From))
		}
		row(t, r.Subject, r.Fingerprint, map[bool]string{false: "this machine", true: "authority"}[r.Authority], ends, r.File)
	}
	return t.Flush()
}

// printPrivileges prints what a process may do, in a line.
func printPrivileges(w io.Writer, p api.Privileges) {
	if !p.NoNewPrivs {
		fmt.Fprintf(w, "privileges: all that it was started with, %d capabilities\n", len(p.Capabilities))
		return
	}
	files := ""
	if p.Confined {
		files = "; confined to sandbox.paths"
	}
	fmt.Fprintf(w, "privileges: %s; no new ones%s\n", strings.Join(p.Capabilities, " "), files)
}

func printAgent(w io.Writer, s *api.AgentStatus) error {
	fmt.Fprintf(w, "agent: %s: %s\n", health(s.Healthy), s.Summary)
	fmt.Fprintf(w, "state %s\n", s.State)
	if s.Proven != "" {
		fmt.Fprintf(w, "proven by %s\n", s.Proven)
	}
	printPrivileges(w, s.Privileges)
	fmt.Fprintln(w)
	if err := printTargets(w, s.Targets); err != nil {
		return err
	}
	if err := printCertificates(w, s.Certificates); err != nil {
		return err
	}
	printWarnings(w, s.Warnings)
	return nil
}

func health(well bool) string {
	if well {
		return "ok"
	}
	return "NOT WELL"
}

func printTargets(w io.Writer, rows []api.TargetRow) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row(t, "TARGET", "REVISION", "STATE", "SINCE", "RETRIES", "DRIFTS", "ERROR")
	for _, r := range rows {
		row(t, r.Name, r.Revision, r.State, since(r.Since), r.Retries, r.Drifts, r.Error)
	}
	return t.Flush()
}

func printLinks(w io.Writer, rows []api.LinkRow) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row(t, "LINK", "MTU", "STATE", "PROGRAM", "NOTE")
	for _, r := range rows {
		row(t, r.Name, r.MTU, map[bool]string{true: "up", false: "down"}[r.Up], cmp.Or(r.Program, "-"), r.Note)
	}
	return t.Flush()
}

// since returns how long ago a time was, "-" for one that has not come.
func since(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return age(time.Since(t))
}
