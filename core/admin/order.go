package admin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/plain"
	"github.com/caplance/caplance/core/protocol"
)

const (
	// maxReason is the longest reason, bytes.
	maxReason = 200
	// maxFor is the longest time for an order.
	maxFor = 10 * 365 * 24 * time.Hour
	// maxOrders holds a script with a loop from filling the memory.
	maxOrders = 1 << 14
	// waitTime is how long an order waits for the datapath.
	waitTime = 5 * time.Second
)

// Order carries an order out: it is on the disk and the datapath works by it when
// this returns, or nothing has changed. It returns the orders that hold for the
// backend then.
func (k *Keeper) Order(ctx context.Context, o api.AdminOrder, by api.Caller) ([]api.AdminRow, error) {
	if err := k.check(&o); err != nil {
		return nil, err
	}
	if o.Verb == "kick" {
		if !k.cfg.Kick(ctx, o.Backend) {
			return nil, fmt.Errorf("backend %s is not registered: there is nothing to end", o.Backend)
		}
		return k.of(o.Backend), nil
	}
	revision, err := k.change(&o, by)
	if err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeout(ctx, waitTime)
	defer cancel()
	if err := k.cfg.Wait(bounded, revision); err != nil {
		k.cfg.Log.Warn("order answered before the datapath has it", "backend", o.Backend, "order", o.Verb, "err", err)
	}
	return k.of(o.Backend), nil
}

// of returns a backend's orders.
func (k *Keeper) of(backend string) []api.AdminRow {
	return slices.DeleteFunc(k.Rows(), func(r api.AdminRow) bool { return r.Backend != backend })
}

// check reports what is wrong with an order, whatever holds.
func (k *Keeper) check(o *api.AdminOrder) error {
	lasts := o.Verb == "pause" || o.Verb == "drain" || o.Verb == "disable" || o.Verb == "weight" && o.Weight != nil
	switch {
	case !slices.Contains([]string{"pause", "drain", "resume", "disable", "enable", "weight", "kick"}, o.Verb):
		return fmt.Errorf("order %q is unknown", o.Verb)
	case o.Backend == "":
		return fmt.Errorf("%s: the backend's name is missing", o.Verb)
	case o.Weight != nil && (o.Verb != "weight" || *o.Weight > protocol.MaxWeight):
		return fmt.Errorf("weight %d is for the order weight, and at most %d", *o.Weight, protocol.MaxWeight)
	case o.For != 0 && !lasts:
		return fmt.Errorf("%s takes no time: it is done at once", o.Verb)
	case !(o.For >= 0) || o.For > maxFor.Seconds():
		return fmt.Errorf("time of %g s is not from 0 to %s", o.For, maxFor)
	case o.Service != "" && o.Verb == "kick":
		return errors.New("kick is for the session, and so for all services")
	case len(o.Reason) > maxReason:
		return fmt.Errorf("reason is longer than %d bytes", maxReason)
	case strings.ContainsFunc(o.Reason, unicode.IsControl):
		return errors.New("reason has control characters")
	}
	held := slices.ContainsFunc(k.Rows(), func(r api.AdminRow) bool { return r.Backend == o.Backend && r.Service == o.Service })
	if takesBack := o.Verb == "resume" || o.Verb == "enable" || o.Verb == "weight" && o.Weight == nil; o.Service != "" && !(takesBack && held) {
		services := k.cfg.Store.Snapshot().Services
		if services.Named(o.Service) == nil {
			var names []string
			for _, s := range services.List {
				names = append(names, s.Name)
			}
			return fmt.Errorf("service %q is unknown%s (services: %s)", o.Service, plain.DidYouMean(o.Service, names), strings.Join(names, ", "))
		}
	}
	return k.known(o.Backend)
}

// known returns an error with similar names for a backend that nobody has heard
// of.
func (k *Keeper) known(backend string) error {
	all := k.names()
	listed := func(name string) bool { ok, _ := path.Match(name, backend); return ok }
	if slices.ContainsFunc(all, listed) || k.cfg.Store.Snapshot().HasBackend(backend) {
		return nil
	}
	single := slices.DeleteFunc(all, func(name string) bool { return strings.Contains(name, "*") })
	return fmt.Errorf("backend %q was never seen, and no [[agent]] has that name%s", backend, plain.DidYouMean(backend, single))
}

// change makes an order hold, and writes it down before.
func (k *Keeper) change(o *api.AdminOrder, by api.Caller) (revision uint64, err error) {
	k.changing.Lock()
	defer k.changing.Unlock()
	next, err := k.after(k.Rows(), o, by, now())
	if err != nil {
		return 0, err
	}
	if len(next) > maxOrders {
		return 0, fmt.Errorf("%d orders hold, no more can (take some back)", maxOrders)
	}
	if err := save(k.cfg.File, next); err != nil {
		return 0, err
	}
	k.began(o)
	return k.publish(next)
}

// began notes when a drain of this process began. A second one goes on with the
// first one's time.
func (k *Keeper) began(o *api.AdminOrder) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := core.AdminKey{Backend: o.Backend, Service: o.Service}
	if _, ok := k.begun[key]; o.Verb == "drain" && !ok {
		k.begun[key] = time.Now()
	} else if o.Verb != "drain" && kind(o.Verb) == kind("drain") {
		maps.DeleteFunc(k.begun, func(of core.AdminKey, _ time.Time) bool {
			return of.Backend == o.Backend && (o.Service == "" || of.Service == o.Service)
		})
	}
}

// now returns the time by the wall's clock alone: the file has no other.
func now() time.Time { return time.Now().Round(0) }

// kind returns what an order is about: those of different kinds stand beside each
// other, of one kind the last holds.
func kind(verb string) string {
	switch verb {
	case "drain", "resume":
		return "pause"
	case "enable":
		return "disable"
	}
	return verb
}

// after returns the orders as they are after one more. One for all services takes
// the place of those for one.
func (k *Keeper) after(rows []api.AdminRow, o *api.AdminOrder, by api.Caller, now time.Time) (next []api.AdminRow, err error) {
	row := api.AdminRow{Backend: o.Backend, Service: o.Service, Verb: o.Verb, User: by.User, UID: by.UID, Since: now, Reason: o.Reason}
	if o.Weight != nil {
		row.Weight = *o.Weight
	}
	if o.For > 0 {
		until := now.Add(time.Duration(o.For * float64(time.Second)))
		row.Until = &until
	}
	if o.Verb == "drain" {
		timeout := now.Add(k.cfg.DrainTimeout())
		row.Timeout = &timeout
	}
	var wider *api.AdminRow // of the kind, for all services
	for _, r := range rows {
		switch {
		case r.Backend != o.Backend || kind(r.Verb) != kind(o.Verb):
			next = append(next, r)
		case o.Service != "" && r.Service != o.Service:
			next = append(next, r)
			if r.Service == "" {
				wider = &r
			}
		case r.Service == o.Service && r.Verb == "drain" && o.Verb == "drain": // its deadline does not move
			row.Timeout, row.Over = r.Timeout, r.Over
		}
	}
	switch {
	case o.Verb == "resume" || o.Verb == "enable" || o.Verb == "weight" && o.Weight == nil:
		if wider != nil {
			return nil, fmt.Errorf("%s has %s in every service: take that back (%s without -service), or it would still hold in %s", o.Backend, wider.What(), o.Verb, o.Service)
		}
	default:
		next = append(next, row)
	}
	sortRows(next)
	return next, nil
}
