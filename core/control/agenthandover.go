package control

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/caplance/caplance/core/api"
)

// HandoverFunc prepares to leave the machine as it is until a successor starts;
// leave then ends the process.
type HandoverFunc func(ctx context.Context) (report api.AgentHandover, leave func(), err error)

// OfferHandover has the socket answer HandoverAgent by f. Call it before Run.
func (s *AgentServer) OfferHandover(f HandoverFunc) { s.handover = f }

// leaveAfter is how long a caller may take to read the answer.
const leaveAfter = time.Second

// Handover implements the method Client.Handover of net/rpc.
func (c *client) Handover(req *string, reply *api.AgentHandover) error {
	return c.order("Handover", *req, func() error { return c.leaveTo(reply) })
}

// leaveTo prepares the handover and answers it.
func (c *client) leaveTo(reply *api.AgentHandover) error {
	if c.s.handover == nil {
		return errors.New("agent has no handover")
	}
	report, leave, err := c.s.handover(c.ctx)
	if err != nil {
		return err
	}
	*reply = report
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave = sync.OnceFunc(leave)
	time.AfterFunc(leaveAfter, c.leave)
	return nil
}

// hungUp ends the process whose handover the caller has read.
func (c *client) hungUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leave != nil {
		c.leave()
	}
}

// HandoverAgent ends the agent behind a socket and leaves its machine to a successor.
// name is the backend's, or empty; the agent refuses another one.
func HandoverAgent(ctx context.Context, path, name string) (api.AgentHandover, error) {
	return askAgent[api.AgentHandover](ctx, path, "Handover", name)
}
