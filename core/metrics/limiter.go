package metrics

import (
	"net"
	"sync"
)

// limiter is a listener with room for so many connections; more are hung up on and
// counted.
type limiter struct {
	net.Listener
	s *Server
}

// Accept implements net.Listener.
func (l limiter) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.s.open.Add(1) <= l.s.most.Load() {
			return &held{Conn: conn, leave: sync.OnceFunc(func() { l.s.open.Add(-1) })}, nil
		}
		l.s.open.Add(-1)
		l.s.refused.Add(1)
		_ = conn.Close() // it was told nothing yet
	}
}

// held is a connection that has room.
type held struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *held) Close() error {
	c.leave()
	return c.Conn.Close()
}
