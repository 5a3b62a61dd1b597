package control

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
)

// socket is a control socket that is taken before anything is changed, and
// served later.
type socket struct {
	path     string
	access   Access
	clients  int
	refused  atomic.Uint64 // connections without room
	audit    auditor
	ready    chan struct{}
	listener net.Listener // nil before Listen
}

func (s *socket) init(o Options) {
	s.path, s.access, s.clients, s.ready = o.Path, o.Access, cmp.Or(o.Clients, DefaultClients), make(chan struct{})
	s.audit.log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
}

// Refused returns how many connections were hung up on for want of room.
func (s *socket) Refused() uint64 { return s.refused.Load() }

// Ready returns a channel that is closed when the socket answers.
func (s *socket) Ready() <-chan struct{} { return s.ready }

// Listen takes the socket; callers wait until Run answers. It fails when another
// process answers there. The second call does nothing.
func (s *socket) Listen() (err error) {
	if s.listener != nil {
		return nil
	}
	l, err := Listen(s.path, s.access)
	if err != nil {
		return err
	}
	s.listener = &limiter{Listener: l, access: s.access, most: s.clients, refused: &s.refused}
	return nil
}

// Close removes the socket of a Listen that no Run followed. After Run it does
// nothing.
func (s *socket) Close() error {
	if s.listener == nil {
		return nil
	}
	if err := s.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}
