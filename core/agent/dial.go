package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/protocol"
)

// dial connects to a balancer. Where the agent has a key or a certificate, it proves
// that, and the balancer has to prove one that the agent knows.
func (c *Config) dial(ctx context.Context, server string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", server)
	if err != nil || c.Own == nil {
		return conn, err
	}
	secure := auth.Client(conn, c.Own, c.knows)
	if _, err = secure.Prove(ctx); err != nil {
		return nil, fmt.Errorf("balancer %s: %w", server, err)
	}
	return secure, nil
}

// knows returns why a balancer is none of the agent's.
func (c *Config) knows(balancer *auth.Identity) error {
	if balancer.In(c.BalancerKeys, c.BalancerNames) {
		return nil
	}
	list := map[string]string{"key": "balancer_keys", "certificate": "balancer_names"}[balancer.Kind()]
	return fmt.Errorf("its %s %s is not in %s: it may be another's", balancer.Kind(), balancer, list)
}

// hint adds to why the balancer's lines ended what that means before the agent has
// registered.
func (s *session) hint(err error) error {
	own := s.ids.Own
	switch {
	case s.registered:
	case own != nil && auth.Refused(err):
		return fmt.Errorf("it does not know this agent's %s", own.Introduce(s.a.config().Name))
	case own == nil && (errors.Is(err, io.EOF) || errors.Is(err, protocol.ErrBinary)):
		return fmt.Errorf("%w (does it want a key or a certificate? [registry] auth of its file; caplance keygen makes one for key in this agent's)", err)
	}
	return err
}
