package daemon

import (
	"context"
	"time"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/auth"
)

// sessions returns by what agents have proven who they are.
func (d *Daemon) sessions() (out []api.AgentSession) {
	for _, s := range d.registry.Sessions() {
		row := api.AgentSession{Backend: s.Backend, Agent: s.Agent, Peer: s.Peer, Heard: s.Heard, Lease: s.Lease.Seconds()}
		if s.Proven != nil {
			row.Proven = s.Proven.String()
			if at := s.Proven.Expires(); !at.IsZero() {
				row.Expires = &at
			}
		}
		out = append(out, row)
	}
	return out
}

// terms returns the certificates that the balancer uses, and why they are of no use.
func (d *Daemon) terms() (rows []api.CertificateRow, useless error) {
	own := d.cfg.Load().Registry.Own
	for _, t := range auth.Terms(own) {
		rows = append(rows, api.CertificateRow(t))
	}
	return rows, auth.Failing(own, time.Now())
}

// reminder returns what writes of certificates that end soon to the log, of each once a
// day.
func (d *Daemon) reminder() func(context.Context) error {
	var r auth.Reminder
	return func(context.Context) error {
		for _, text := range r.Due(d.cfg.Load().Registry.Own, time.Now()) {
			d.log.Warn(text)
		}
		return nil
	}
}
