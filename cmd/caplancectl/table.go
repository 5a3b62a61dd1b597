package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caplance/caplance/core/control"
)

// printTable prints an answer of the balancer for people.
func printTable(w io.Writer, answer any) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	switch v := answer.(type) {
	case []control.BackendRow:
		row(t, "SERVICE", "BACKEND", "ADDRESS", "MODE", "STATE", "WEIGHT", "FLOWS", "TOTAL", "SHARE", "PACKETS", "BYTES", "UP")
		for _, b := range v {
			row(t, b.Service, b.Name, b.Addr, b.Mode, b.State, b.Weight, b.Flows, b.FlowsTotal,
				fmt.Sprintf("%.1f%%", 100*b.Share), count(b.Packets), size(b.Bytes), age(time.Since(b.Since)))
		}
	case []control.ServiceRow:
		row(t, "SERVICE", "VIP", "PROTO", "PORTS", "MODE", "POLICY", "BACKENDS", "FLOWS", "BY POLICY", "BY TABLE", "FALLBACK", "REJECT", "NOBODY", "FAILURES")
		for _, s := range v {
			policy := s.Policy
			if s.Quarantined {
				policy += " (quarantined)"
			}
			row(t, s.Name, s.VIP, s.Protocol, s.Ports, s.Mode, policy, fmt.Sprintf("%d/%d", s.Eligible, s.Backends), s.Flows,
				count(s.Picks["policy"]), count(s.Picks["table"]), count(s.Picks["fallback"]), count(s.Picks["reject"]), count(s.Picks["nobody"]), s.Failures)
		}
		for _, s := range v {
			if s.LastError != "" {
				row(t, "\npolicy of "+s.Name+": "+s.LastError)
			}
		}
	case []control.FlowRow:
		row(t, "CLIENT", "VIP", "PROTO", "SERVICE", "BACKEND", "STATE", "IN", "RULE", "AGE", "IDLE", "PACKETS", "BYTES")
		for _, f := range v {
			row(t, f.Src, f.Dst, f.Proto, f.Service, f.Backend, f.State, where(f.Kernel), f.Rule, seconds(f.Age), seconds(f.Idle), count(f.Packets), size(f.Bytes))
		}
	case control.Explanation:
		explanation(t, v)
	case control.Stats:
		stats(t, v)
	}
	return t.Flush()
}

func stats(t io.Writer, s control.Stats) {
	row(t, "version", s.Version)
	row(t, "up", seconds(s.Uptime))
	row(t, "capture", s.Capture)
	row(t, "rung", s.Rung)
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

// size is bytes: 512 B, 1.2 KiB.
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

// age is a duration to the precision that one wants to read: 450ms, 12s, 3m4s,
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
