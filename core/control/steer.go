package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/caplance/caplance/core/api"
)

// Steering takes the operator's orders about backends. It may be called
// concurrently.
type Steering interface {
	// Order carries an order out, or changes nothing. It returns the orders that
	// hold for the backend then.
	Order(ctx context.Context, o api.AdminOrder, by api.Caller) ([]api.AdminRow, error)
}

// OfferSteering adds orders about backends to what the socket offers. Call it
// before Run.
func (s *Server) OfferSteering(st Steering) {
	s.mux.HandleFunc("POST /v1/backends/order", func(w http.ResponseWriter, r *http.Request) {
		var o api.AdminOrder
		if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
			http.Error(w, fmt.Sprintf("order is not JSON: %v", err), http.StatusBadRequest)
			return
		}
		by := callerOf(r.Context())
		rows, err := st.Order(r.Context(), o, by.named())
		api.Reply(w, rows, err)
	})
}

// Steer orders something about a backend and returns the orders that hold for it
// then.
func (c *Client) Steer(ctx context.Context, o api.AdminOrder) (rows []api.AdminRow, err error) {
	body, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("balancer at %s: %w", c.path, err)
	}
	return rows, c.ask(ctx, http.MethodPost, "backends/order", bytes.NewReader(body), &rows)
}
