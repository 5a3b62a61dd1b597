package agent

import (
	"github.com/caplance/caplance/core/config"
	"github.com/caplance/caplance/core/control"
)

// socket returns the control socket, not yet open.
func (a *Agent) socket() (*control.AgentServer, error) {
	c := a.config()
	access, err := control.NewAccess(c.ControlGroup, c.ControlReadGroup, config.Group)
	if err != nil {
		return nil, err
	}
	return control.NewAgentServer(control.Options{Path: c.Control, Access: access, Clients: c.ControlClients, Log: a.log}, c.Name, a.command), nil
}
