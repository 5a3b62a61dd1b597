package admin

import (
	"context"
	"slices"
	"time"

	"github.com/caplance/caplance/core"
	"github.com/caplance/caplance/core/api"
)

const (
	// settle is how long a drain lasts at least: a flow that was picked just
	// before it may not be counted yet.
	settle = time.Second
	// resettle is how long a drain lasts at least after a restart: the flows of
	// the predecessor have to be found, and the agents to tell of theirs.
	resettle = 5 * time.Second
)

// Sweep does what is due by time: orders that were for a time end, and drained
// backends leave their pools.
func (k *Keeper) Sweep(context.Context) error {
	k.mu.Lock()
	rows := k.rows
	if k.complete.IsZero() && k.cfg.Store.Snapshot().Complete {
		k.complete = time.Now()
	}
	k.mu.Unlock()
	now := time.Now()
	var over []api.AdminRow
	for _, r := range rows {
		if r.Verb == "drain" && !r.Over && k.drained(&r, now) {
			over = append(over, r)
		}
	}
	if len(over) == 0 && !slices.ContainsFunc(rows, func(r api.AdminRow) bool { return ended(&r, now) }) {
		return nil
	}
	k.changing.Lock()
	defer k.changing.Unlock()
	rows = k.running(k.Rows(), now)
	for i := range rows {
		r := &rows[i]
		if slices.ContainsFunc(over, func(o api.AdminRow) bool {
			return o.Backend == r.Backend && o.Service == r.Service && o.Verb == r.Verb && o.Since.Equal(r.Since)
		}) {
			r.Over = true
			k.cfg.Log.Info("backend drained, as the operator ordered", "backend", r.Backend, "service", r.Service)
		}
	}
	if _, err := k.publish(rows); err != nil { // nothing in it can fail
		return err
	}
	if err := save(k.cfg.File, rows); err != nil { // who reads the old one ends them, too
		k.cfg.Log.Warn("operator's orders not written down, but in force", "err", err)
	}
	return nil
}

// ended reports whether an order's time is over.
func ended(r *api.AdminRow, now time.Time) bool { return r.Until != nil && !now.Before(*r.Until) }

// running returns the orders, which it may change, whose time is not over.
func (k *Keeper) running(rows []api.AdminRow, now time.Time) []api.AdminRow {
	return slices.DeleteFunc(rows, func(r api.AdminRow) bool {
		if !ended(&r, now) {
			return false
		}
		k.mu.Lock()
		delete(k.begun, core.AdminKey{Backend: r.Backend, Service: r.Service})
		k.mu.Unlock()
		k.cfg.Log.Info("operator's order is over: its time has passed", "backend", r.Backend, "service", r.Service, "order", r.What(), "by", r.User)
		return true
	})
}

// drained reports whether a drain is over: by time, or because all flows are that
// may have been placed before it held.
func (k *Keeper) drained(r *api.AdminRow, now time.Time) bool {
	if r.Timeout != nil && !now.Before(*r.Timeout) {
		return true
	}
	k.mu.Lock()
	from, complete := k.begun[core.AdminKey{Backend: r.Backend, Service: r.Service}], k.complete
	k.mu.Unlock()
	if complete.IsZero() {
		return false
	}
	least := settle
	if from.IsZero() { // a predecessor's
		from, least = complete, resettle
	}
	if k.cfg.CountedAt().Sub(from) < least || now.Sub(from) < least {
		return false
	}
	if k.cfg.Flows(r.Backend, r.Service) > 0 {
		return false
	}
	return r.Service != "" || k.cfg.Live(r.Backend) == 0 // it counts those of all services together
}
