package main

import (
	"cmp"
	"slices"
	"time"

	"github.com/caplance/caplance/core/api"
)

// totals adds up a backend's counters over its registrations: after every one
// the balancer counts from zero.
type totals struct {
	seen    map[membership]api.BackendRow // as last seen
	states  map[string]string
	history []sample // of the last second, the oldest first
}

// sample is the backends' flows at a time.
type sample struct {
	at    time.Time
	flows map[string]uint64
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
	recent  float64 // of the new flows of the last second, 0 to 1
	state   string
}

// add takes in what the balancer shows at a time.
func (t *totals) add(at time.Time, rows []api.BackendRow) {
	if t.seen == nil {
		t.seen, t.states = map[membership]api.BackendRow{}, map[string]string{}
	}
	for name := range t.states {
		t.states[name] = "gone"
	}
	for _, r := range rows {
		t.seen[membership{r.Service, r.Name, r.Since}] = r
		t.states[r.Name] = r.State.String()
	}
	t.note(at)
}

// note keeps the flows of now, and of the second before.
func (t *totals) note(at time.Time) {
	now := sample{at, map[string]uint64{}}
	for m, r := range t.seen {
		now.flows[m.name] += r.FlowsTotal
	}
	t.history = append(t.history, now)
	for len(t.history) > 2 && at.Sub(t.history[1].at) >= time.Second {
		t.history = t.history[1:]
	}
}

// lines returns the backends by name.
func (t *totals) lines() []line {
	var lines []line
	sum, recent := uint64(0), uint64(0)
	for name, state := range t.states {
		l := line{name: name, state: state}
		for m, r := range t.seen {
			if m.name == name {
				l.flows += r.FlowsTotal
				l.packets += r.Packets
			}
		}
		sum, recent = sum+l.flows, recent+t.recent(name)
		lines = append(lines, l)
	}
	for i, l := range lines {
		lines[i].share = float64(l.flows) / float64(max(sum, 1))
		lines[i].recent = float64(t.recent(l.name)) / float64(max(recent, 1))
	}
	slices.SortFunc(lines, func(a, b line) int { return cmp.Compare(a.name, b.name) })
	return lines
}

// recent returns the number of a backend's new flows in the last second.
func (t *totals) recent(name string) uint64 {
	return t.history[len(t.history)-1].flows[name] - t.history[0].flows[name]
}
