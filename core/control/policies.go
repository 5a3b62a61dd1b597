package control

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/caplance/caplance/core/api"
)

// Policies changes the services' policies. Its methods may be called
// concurrently; a change that fails leaves everything as it was.
type Policies interface {
	Swap(ctx context.Context, service, policy string) error
	Rollback(ctx context.Context, service string) error
	Shadow(ctx context.Context, service, policy string) error
}

func (s *Server) offerPolicies(p Policies) {
	s.order("swap", func(ctx context.Context, c api.PolicyChange) error { return p.Swap(ctx, c.Service, c.Policy) })
	s.order("rollback", func(ctx context.Context, c api.PolicyChange) error { return p.Rollback(ctx, c.Service) })
	s.order("shadow", func(ctx context.Context, c api.PolicyChange) error { return p.Shadow(ctx, c.Service, c.Policy) })
}

func (s *Server) order(path string, do func(context.Context, api.PolicyChange) error) {
	s.mux.HandleFunc("POST /v1/policies/"+path, func(w http.ResponseWriter, r *http.Request) {
		var c api.PolicyChange
		if err := json.NewDecoder(r.Body).Decode(&c); err != nil {
			http.Error(w, fmt.Sprintf("order is not JSON: %v", err), http.StatusBadRequest)
			return
		}
		api.Reply(w, struct{}{}, do(r.Context(), c))
	})
}
