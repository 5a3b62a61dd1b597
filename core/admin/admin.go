// Package admin keeps what the operator orders of backends at the balancer:
// pause, drain, disable, another weight; in all services or in one, for good or
// for a time. Orders are kept by the backend's name, whether it is there or not,
// in a file, so that they hold after a restart, and are written into the state,
// where they stand beside what the agents ask.
//
//	k, err := admin.Open(admin.Config{File: file, Store: store, …})
//	rows, err := k.Order(ctx, api.AdminOrder{Verb: "drain", Backend: "web1"}, caller)
//	err = k.Sweep(ctx) // several times a second: ends drains, and orders for a time
package admin

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/state"
)

// Config is what a Keeper is made with. The functions may be called from several
// goroutines at once.
type Config struct {
	File  string // where orders are kept
	Store *state.Store
	// Listed returns the names that the configuration has for agents; * in one stands
	// for anything.
	Listed func() []string
	// DrainTimeout returns how long a drain takes at most.
	DrainTimeout func() time.Duration
	// Flows returns the number of flows of a backend in a service, "" for all.
	Flows func(backend, service string) int
	// Live returns the number of connections that a backend's agent counts, 0
	// where none does.
	Live func(backend string) int
	// CountedAt returns a time before which every flow began that Flows counts
	// surely.
	CountedAt func() time.Time
	// Kick ends a backend's session and its membership; false: it is not there.
	Kick func(ctx context.Context, backend string) bool
	// Wait returns once the datapath works by a revision, or when ctx ends.
	Wait func(ctx context.Context, revision uint64) error
	Log  *slog.Logger
}

// Keeper keeps the orders. Its methods may be called concurrently.
type Keeper struct {
	cfg Config

	changing sync.Mutex // held over a change of rows, and so over the disk; taken before mu

	mu       sync.Mutex
	rows     []api.AdminRow              // never changed, only replaced; in the order of their backends, services and verbs
	begun    map[core.AdminKey]time.Time // of this process' drains
	seen     map[string]bool             // backends that there were since the start
	complete time.Time                   // since when all of a predecessor's backends are back; zero: not yet
}

// maxSeen is how many names are remembered.
const maxSeen = 1 << 14

// Open reads the orders and writes them into the state.
func Open(cfg Config) (*Keeper, error) {
	k := &Keeper{cfg: cfg, begun: map[core.AdminKey]time.Time{}, seen: map[string]bool{}}
	rows, err := load(cfg.File)
	if err != nil {
		return nil, err
	}
	rows = k.running(rows, time.Now())
	if _, err := k.publish(rows); err != nil {
		return nil, err
	}
	for _, r := range rows {
		cfg.Log.Info("operator's order holds", "backend", r.Backend, "service", r.Service, "order", r.What(), "by", r.User, "reason", r.Reason)
	}
	return k, nil
}

// Rows returns the orders that hold, by backend, service and verb.
func (k *Keeper) Rows() []api.AdminRow {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]api.AdminRow{}, k.rows...) // [] in JSON, not null
}

// maxTold orders fit into an agent's line.
const maxTold = 16

// Told returns what an agent is told of its operator's orders: words like drain,
// weight:5 or drain@web, for one service, joined by commas, and if there are
// more than fit, +N at the end; "" if there is none.
func (k *Keeper) Told(backend string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var words []string
	for _, r := range k.rows {
		if r.Backend != backend {
			continue
		}
		word := strings.ReplaceAll(r.What(), " ", ":")
		if r.Service != "" {
			word += "@" + r.Service
		}
		words = append(words, word)
	}
	if more := len(words) - maxTold; more > 0 {
		words = append(words[:maxTold], fmt.Sprint("+", more))
	}
	return strings.Join(words, ",")
}

// publish makes orders hold. No other change is under way.
func (k *Keeper) publish(rows []api.AdminRow) (revision uint64, err error) {
	k.mu.Lock()
	k.rows = rows
	k.mu.Unlock()
	set := core.AdminSet{}
	for _, r := range rows {
		key := core.AdminKey{Backend: r.Backend, Service: r.Service}
		a := set[key]
		switch r.Verb {
		case "pause":
			a.Paused = true
		case "drain":
			a.Draining, a.Drained = true, r.Over
		case "disable":
			a.Disabled = true
		case "weight":
			a.Weighs, a.Weight = true, r.Weight
		}
		set[key] = a
	}
	return k.cfg.Store.Update("operator", func(d *state.Draft) error {
		d.SetAdmin(set)
		return nil
	})
}

// sortRows orders rows for people.
func sortRows(rows []api.AdminRow) {
	slices.SortFunc(rows, func(a, b api.AdminRow) int {
		if c := strings.Compare(a.Backend, b.Backend); c != 0 {
			return c
		}
		if c := strings.Compare(a.Service, b.Service); c != 0 {
			return c
		}
		return strings.Compare(a.Verb, b.Verb)
	})
}

// Saw notes backends that are there, whose names can be ordered about from then
// on.
func (k *Keeper) Saw(list []core.Backend) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range list {
		if len(k.seen) < maxSeen {
			k.seen[list[i].Name] = true
		}
	}
}

// names returns all that are known.
func (k *Keeper) names() []string {
	k.mu.Lock()
	all := maps.Clone(k.seen)
	for _, r := range k.rows {
		all[r.Backend] = true
	}
	k.mu.Unlock()
	for _, n := range k.cfg.Listed() {
		all[n] = true
	}
	return slices.Sorted(maps.Keys(all))
}
