package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caplance/caplance/core/api"
)

// printTable prints an answer of the balancer for people.
func printTable(w io.Writer, answer any) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	switch v := answer.(type) {
	case []api.BackendRow:
		row(t, "SERVICE", "BACKEND", "ADDRESS", "MODE", "STATE", "WEIGHT", "FLOWS", "TOTAL", "SHARE", "PACKETS", "BYTES", "UP", "RTT", "LOAD", "ADMIN")
		for _, b := range v {
			if b.Absent() {
				row(t, cmp.Or(b.Service, "-"), b.Name, "-", "-", b.State, "-", "-", "-", "-", "-", "-", "-", "-", "-", orders(b.Admin))
				continue
			}
			row(t, b.Service, b.Name, b.Addr, b.Mode, b.State, b.Weight, b.Flows, b.FlowsTotal,
				fmt.Sprintf("%.1f%%", 100*b.Share), count(b.Packets), size(b.Bytes), age(time.Since(b.Since)), rtt(b.RTT), load(b.Load), orders(b.Admin))
		}
		if list := allOrders(v); len(list) > 0 {
			if err := t.Flush(); err != nil {
				return err
			}
			fmt.Fprintln(w)
			printOrders(w, list)
		}
		reasons(t, v)
	case []api.ServiceRow:
		row(t, "SERVICE", "VIP", "PROTO", "PORTS", "MODE", "POLICY", "BACKENDS", "FLOWS", "BY POLICY", "BY TABLE", "FALLBACK", "REJECT", "NOBODY", "DENIED", "LIMITED", "FAILURES")
		for _, s := range v {
			policy := s.Policy
			if s.Quarantined {
				policy += " (quarantined)"
			}
			row(t, s.Name, s.VIP, s.Protocol, s.Ports, s.Mode, policy, fmt.Sprintf("%d/%d", s.Eligible, s.Backends), s.Flows,
				count(s.Picks["policy"]), count(s.Picks["table"]), count(s.Picks["fallback"]), count(s.Picks["reject"]), count(s.Picks["nobody"]), count(s.Denied), count(s.Limited), s.Failures)
		}
		for _, s := range v {
			if s.LastError != "" {
				row(t, "\npolicy of "+s.Name+": "+s.LastError)
			}
		}
	case []api.EventRow:
		for _, e := range v {
			row(t, e.Time.Local().Format("01-02 15:04:05.000"), e.Level, e.Text, e.About)
		}
	case []api.AgentRow:
		agentRows(t, v)
	case []api.FlowRow:
		row(t, "CLIENT", "VIP", "PROTO", "SERVICE", "BACKEND", "STATE", "IN", "RULE", "AGE", "IDLE", "PACKETS", "BYTES")
		for _, f := range v {
			row(t, f.Src, f.Dst, f.Proto, f.Service, f.Backend, f.State, where(f.Kernel), f.Rule, seconds(f.Age), seconds(f.Idle), count(f.Packets), size(f.Bytes))
		}
	case api.Explanation:
		explanation(t, v)
	case api.Stats:
		stats(t, v)
	}
	return t.Flush()
}

// reasons says why backends are in their states, once for all services that have the
// same reason.
func reasons(t io.Writer, rows []api.BackendRow) {
	type reason struct {
		name, text string
	}
	services := map[reason][]string{}
	var order []reason
	note := func(b *api.BackendRow, text string) {
		r := reason{b.Name, text}
		if services[r] == nil {
			order = append(order, r)
		}
		services[r] = append(services[r], b.Service)
	}
	for i := range rows {
		b := &rows[i]
		if b.Reason != "" {
			note(b, b.Why())
		}
		if b.Warning != "" {
			note(b, "warning: "+b.Warning)
		}
	}
	for i, r := range order {
		if i == 0 {
			row(t)
		}
		row(t, fmt.Sprintf("%s (%s) %s", r.name, strings.Join(services[r], ", "), r.text))
	}
}

// rtt formats a round trip time in seconds, "-" where it is not known.
func rtt(s float64) string {
	if s == 0 {
		return "-"
	}
	return time.Duration(s * float64(time.Second)).Round(time.Microsecond).String()
}

func load(percent *float64) string {
	if percent == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", *percent)
}

// allOrders returns the orders about the backends, each once.
func allOrders(rows []api.BackendRow) (out []api.AdminRow) {
	for _, r := range rows {
		for _, o := range r.Admin {
			if !slices.ContainsFunc(out, func(p api.AdminRow) bool { return p.Backend == o.Backend && p.Service == o.Service && p.Verb == o.Verb }) {
				out = append(out, o)
			}
		}
	}
	return out
}

func stats(t io.Writer, s api.Stats) {
	row(t, "version", s.Version)
	row(t, "up", seconds(s.Uptime))
	row(t, "capture", s.Capture)
	row(t, "datapath", s.Datapath)
	row(t, "flows", fmt.Sprintf("%d of %d", s.Flows, s.Capacity))
	for _, name := range slices.Sorted(maps.Keys(s.Counters)) {
		row(t, name, s.Counters[name])
	}
	row(t)
	row(t, "QUEUE", "PACKETS", "BATCHES", "WAITING", "QUEUE DROPS", "SOCKET DROPS")
	for _, q := range s.Queues {
		row(t, q.Queue, q.Packets, q.Batches, q.Waiting, q.QueueDrops, q.SocketDrops)
	}
}

func row(w io.Writer, cells ...any) {
	words := make([]string, len(cells))
	for i, c := range cells {
		words[i] = fmt.Sprint(c)
	}
	fmt.Fprintln(w, strings.Join(words, "\t")) // tabwriter keeps errors for Flush
}

// count shortens a number from a million on: 12345, 1.2M.
func count(n uint64) string { return scaled(n, 1e6, 1000, []string{"", "k", "M", "G", "T", "P", "E"}) }

// size formats bytes: 512 B, 1.2 KiB.
func size(n uint64) string {
	return scaled(n, 1024, 1024, []string{" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"})
}

func scaled(n, from uint64, step float64, units []string) string {
	if n < from {
		return fmt.Sprint(n, units[0])
	}
	v, i := float64(n), 0
	for v >= step && i < len(units)-1 {
		v, i = v/step, i+1
	}
	return fmt.Sprintf("%.1f%s", v, units[i])
}

func seconds(s float64) string { return age(time.Duration(s * float64(time.Second))) }

// age formats a duration to the precision that one wants to read: 450ms, 12s, 3m4s,
// 5h6m, 7d8h.
func age(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Hour:
		return d.Truncate(time.Second).String()
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}
