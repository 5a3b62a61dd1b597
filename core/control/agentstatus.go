package control

import (
	"context"
	"errors"

	"github.com/caplance/caplance/core/api"
)

// ShowStatus has the socket answer AgentStatus by show, which may be called
// concurrently and must not block. Call it before Run.
func (s *AgentServer) ShowStatus(show func() api.AgentStatus) { s.status = show }

// Status implements the method Client.Status of net/rpc.
func (c *client) Status(req *string, reply *api.AgentStatus) error {
	if err := c.refuse(*req, reader); err != nil {
		return err
	}
	if c.s.status == nil {
		return errors.New("agent has no status")
	}
	*reply = c.s.status()
	return nil
}

// AgentStatus asks the agent behind a socket how its machine is.
func AgentStatus(ctx context.Context, path string) (api.AgentStatus, error) {
	return askAgent[api.AgentStatus](ctx, path, "Status", "")
}
