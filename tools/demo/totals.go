package main

import (
	"cmp"
	"slices"
	"time"

	"github.com/caplance/caplance/core/control"
)

// totals adds up a backend's counters over its registrations: after every one
// the balancer counts from zero.
type totals struct {
	seen   map[membership]control.BackendRow // as last seen
	states map[string]string
}

type membership struct {
	service, name string
	since         time.Time
}

// line is one backend over all services and the whole demo.
type line struct {
	name    string
	flows   uint64
	packets uint64
	share   float64 // of all flows, 0 to 1
	state   string
}

// add takes in what the balancer shows now.
func (t *totals) add(rows []control.BackendRow) {
	if t.seen == nil {
		t.seen, t.states = map[membership]control.BackendRow{}, map[string]string{}
	}
	for name := range t.states {
		t.states[name] = "gone"
	}
	for _, r := range rows {
		t.seen[membership{r.Service, r.Name, r.Since}] = r
		t.states[r.Name] = r.State.String()
	}
}

// lines are the backends by name.
func (t *totals) lines() []line {
	var lines []line
	sum := uint64(0)
	for name, state := range t.states {
		l := line{name: name, state: state}
		for m, r := range t.seen {
			if m.name == name {
				l.flows += r.FlowsTotal
				l.packets += r.Packets
			}
		}
		sum += l.flows
		lines = append(lines, l)
	}
	for i := range lines {
		lines[i].share = float64(lines[i].flows) / float64(max(sum, 1))
	}
	slices.SortFunc(lines, func(a, b line) int { return cmp.Compare(a.name, b.name) })
	return lines
}
