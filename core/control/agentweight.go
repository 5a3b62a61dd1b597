package control

import (
	"context"
	"errors"
	"fmt"
)

// WeightRequest is what Client.Weight of net/rpc takes.
type WeightRequest struct {
	Name   string // the backend's, or empty
	Weight uint32
}

// OfferWeight has the socket answer AgentWeight by f. Call it before Run.
func (s *AgentServer) OfferWeight(f WeightFunc) { s.weigh = f }

// Weight implements the method Client.Weight of net/rpc.
func (c *client) Weight(req *WeightRequest, reply *string) (err error) {
	return c.order(fmt.Sprintf("Weight %d", req.Weight), req.Name, func() error {
		if c.s.weigh == nil {
			return errors.New("agent has no weight to change")
		}
		*reply, err = c.s.weigh(c.ctx, req.Weight)
		return err
	})
}

// AgentWeight gives the backend of the agent behind a socket another share of new
// flows, until its file is read again, and returns the agent's state. name is the
// backend's, or empty; the agent refuses another one.
func AgentWeight(ctx context.Context, path, name string, weight uint32) (string, error) {
	return askAgent[string](ctx, path, "Weight", WeightRequest{name, weight})
}
