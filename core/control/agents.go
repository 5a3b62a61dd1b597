package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/caplance/caplance/core/api"
)

// Agents lets agents in and out of the balancer. It may be called concurrently.
type Agents interface {
	Create(o api.TokenOrder) (api.TokenAnswer, error)
	Rows() []api.AgentRow
	Remove(name string) error
}

// OfferAgents adds orders about agents to what the socket offers. Call it before Run.
func (s *Server) OfferAgents(a Agents) {
	s.mux.HandleFunc("GET /v1/agents", func(w http.ResponseWriter, _ *http.Request) { api.Reply(w, a.Rows(), nil) })
	s.mux.HandleFunc("POST /v1/agents/token", func(w http.ResponseWriter, r *http.Request) {
		var o api.TokenOrder
		if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
			http.Error(w, fmt.Sprintf("order is not JSON: %v", err), http.StatusBadRequest)
			return
		}
		answer, err := a.Create(o)
		api.Reply(w, answer, err)
	})
	s.mux.HandleFunc("POST /v1/agents/remove", func(w http.ResponseWriter, r *http.Request) {
		api.Reply(w, struct{}{}, a.Remove(r.URL.Query().Get("name")))
	})
}

// Agents asks who may register.
func (c *Client) Agents(ctx context.Context) (rows []api.AgentRow, err error) {
	return rows, c.get(ctx, "agents", &rows)
}

// CreateToken orders a token by which an agent may join.
func (c *Client) CreateToken(ctx context.Context, o api.TokenOrder) (t api.TokenAnswer, err error) {
	body, err := json.Marshal(o)
	if err != nil {
		return t, fmt.Errorf("balancer at %s: %w", c.path, err)
	}
	return t, c.ask(ctx, http.MethodPost, "agents/token", bytes.NewReader(body), &t)
}

// RemoveAgent has the balancer forget an agent that has joined.
func (c *Client) RemoveAgent(ctx context.Context, name string) error {
	var none struct{}
	return c.ask(ctx, http.MethodPost, "agents/remove?"+url.Values{"name": {name}}.Encode(), http.NoBody, &none)
}
