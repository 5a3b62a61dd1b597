package control

import (
	"bufio"
	"net"
	"net/http"
	"sync"
	"time"
)

// hijacked closes the connections that net/rpc took from the HTTP server,
// which forgets them.
type hijacked struct {
	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
	wg     sync.WaitGroup
}

func (h *hijacked) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		if h.closed {
			h.mu.Unlock()
			return
		}
		h.wg.Add(1)
		h.mu.Unlock()
		defer h.wg.Done()
		next.ServeHTTP(&hijacker{w, h}, r)
	})
}

func (h *hijacked) add(c net.Conn) net.Conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		c.Close()
	}
	h.conns[c] = struct{}{}
	return &trackedConn{c, h}
}

func (h *hijacked) remove(c net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.conns, c)
}

// close ends the connections and waits for their calls.
func (h *hijacked) close() {
	h.mu.Lock()
	h.closed = true
	for c := range h.conns {
		c.Close()
	}
	h.mu.Unlock()
	h.wg.Wait()
}

type hijacker struct {
	http.ResponseWriter
	h *hijacked
}

// Hijack implements http.Hijacker.
func (w *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	return w.h.add(conn), rw, nil
}

type trackedConn struct {
	net.Conn
	h *hijacked
}

// Read implements net.Conn: a client that asks nothing for too long is hung up on.
// An answer under way is still sent.
func (c *trackedConn) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(idleTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

func (c *trackedConn) Close() error {
	c.h.remove(c.Conn)
	return c.Conn.Close()
}
