package agent

import (
	"context"
	"time"

	"github.com/caplance/caplance/core/protocol"
	"github.com/caplance/caplance/core/witness"
)

// openWitness returns nil where the kernel does not tell of TCP connections:
// the balancer then ends flows by what it sees of them.
func (a *Agent) openWitness() *witness.Witness {
	w, err := witness.Open(portsFile(a.config().StateDir), a.log)
	if err != nil {
		a.log.Warn("balancer is not told which connections live: it ends flows by their timeouts (modprobe tcp_diag)", "err", err)
		return nil
	}
	return w
}

// observe notes which connections end. One that fails is no reason to end: the
// balancer asks about those that it doubts.
func (a *Agent) observe(life context.Context) error {
	w := a.machine.witness
	if w == nil {
		return nil
	}
	if err := w.Run(life); err != nil {
		a.log.Warn("ends of connections are not seen any more", "err", err)
	}
	return nil
}

// tellConnections keeps a second stream to the session's balancer for as long as
// the session lasts.
func (s *session) tellConnections(server, token string) {
	if s.a.machine.witness == nil || token == "" {
		return
	}
	s.settling.Go(func() {
		for retry := (backoff{}); ; {
			began := time.Now()
			err := s.stream(s.ctx, server, token)
			if s.ctx.Err() != nil {
				return
			}
			s.a.log.Debug("stream of connections ended, trying again", "server", server, "err", err)
			if time.Since(began) > backoffLast {
				retry.reset()
			}
			if !retry.wait(s.ctx) {
				return
			}
		}
	})
}

const (
	// streamRead is how long a balancer may have no questions.
	streamRead = time.Hour
	// streamAlive is how often the balancer hears that we are there.
	streamAlive = protocol.StreamLease / 3
)

// stream carries one stream until it breaks.
func (s *session) stream(ctx context.Context, server, token string) error {
	cfg := s.a.config()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dialing, dialed := context.WithTimeout(ctx, cfg.WriteTimeout)
	conn, err := s.ids.dial(dialing, server) // by the session's key, whatever has changed since
	dialed()
	if err != nil {
		return err
	}
	stream := protocol.NewTCPCommunicator(conn, cfg.WriteTimeout, cfg.WriteTimeout)
	defer stream.Close()
	defer context.AfterFunc(ctx, func() { stream.Close() })()
	if err := witness.Attach(stream, cfg.Name, token); err != nil {
		return err
	}
	stream.SetTimeouts(streamRead, cfg.WriteTimeout)
	return s.a.machine.witness.Talk(ctx, stream, streamAlive)
}
