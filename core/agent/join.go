package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/protocol"
)

// joinTime is how long a balancer may take for all of it.
const joinTime = 10 * time.Second

// Join enrols a key at the balancer that a token names, whose key it has to prove,
// and returns the name that the agent has there from now on.
func Join(ctx context.Context, token auth.Token, pair *auth.KeyPair) (name string, err error) {
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", token.Server)
	if err != nil {
		return "", fmt.Errorf("balancer: %w (may this machine connect there? caplancectl token create -address says where agents do)", err)
	}
	secure := auth.Joiner(conn, pair, func(id *auth.Identity) error {
		if id.Key != token.Key {
			return fmt.Errorf("its key is %s, not that of the token: it is another, or somebody stands between", id)
		}
		return nil
	})
	defer secure.Close()
	if _, err := secure.Prove(ctx); err != nil {
		return "", fmt.Errorf("balancer %s: %w", token.Server, err)
	}
	comm := protocol.NewTCPCommunicator(secure, joinTime, joinTime)
	if err := comm.WriteLine(protocol.Request{Verb: protocol.Join, Secret: token.Secret[:]}.String()); err != nil {
		return "", fmt.Errorf("balancer %s: %w", token.Server, err)
	}
	line, err := comm.ReadLine()
	if auth.Refused(err) {
		err = errors.New("it lets nobody join now: no token is out (caplancectl token create there)")
	}
	if err != nil {
		return "", fmt.Errorf("balancer %s: %w", token.Server, err)
	}
	reply, err := protocol.ParseReply(line)
	switch {
	case err != nil:
	case reply.Verb == protocol.Invalid:
		err = errors.New(reply.Text)
	case reply.Verb != protocol.Joined || len(reply.Args) != 1 || !protocol.ValidName(reply.Args[0]):
		err = fmt.Errorf("answer %q is not understood", line)
	}
	if err != nil {
		return "", fmt.Errorf("balancer %s: %w", token.Server, err)
	}
	return reply.Args[0], nil
}
