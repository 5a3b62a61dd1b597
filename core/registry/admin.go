package registry

import (
	"context"
	"errors"
)

// errKicked is why an operator's order removes a backend.
var errKicked = errors.New("ended by the balancer's operator")

// Kick ends a backend's session and its membership, as when its lease ends: its
// flows are placed anew, and it may register again. It reports whether the backend
// was there.
func (r *Registry) Kick(ctx context.Context, name string) bool {
	e, ok := r.leases.all()[name]
	if !ok {
		return false
	}
	return r.remove(ctx, name, e.is, errKicked)
}

// told returns what a HEALTHACK adds about the operator's orders, "" without any.
func (r *Registry) told(backend string) string {
	if r.cfg.Admin == nil {
		return ""
	}
	if orders := r.cfg.Admin(backend); orders != "" {
		return " admin=" + orders
	}
	return ""
}
